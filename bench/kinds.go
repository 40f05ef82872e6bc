package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gatepost/wukong"
)

// kinds is every server that can be measured: Gatepost first, then the floors, then
// the peers, each as it comes and as durable as it gets. With --vary it is Gatepost
// alone, once for each value.
func kinds(o options) []*kind {
	self, _ := os.Executable()
	private, err := wukong.NewPrivateKey()
	if err != nil {
		panic(err) // the system has no random numbers
	}
	key := []byte(wukong.PublicKey(private))
	gatepost := func(name, says, encryption string, more ...string) *kind {
		return &kind{
			name: name, says: says, durable: true, program: o.gatepost,
			args: func(dir, addr, http string) ([]string, error) {
				return append([]string{"run", "--data", filepath.Join(dir, "data"), "--tcp", addr, "--ws", "127.0.0.1:0", "--http", http,
					"--encryption", encryption, "--log.level", "warn"}, more...), nil
			},
			dial: func(s *server, id, to string, group bool) (conn, error) { return dialWukong(s.addr, id, to, group) },
			idle: func(s *server, id string) (conn, error) { return idleWukong(s.addr, id, key) },
			consumer: func(s *server, id, from string, group bool) (conn, error) {
				if !group { // messages to a person come to all of their connections
					id = from
				}
				return dialWukong(s.addr, id, "", false)
			},
			group: func(s *server, name string, members []string) error {
				body, _ := json.Marshal(map[string]any{"channel_id": name, "channel_type": 2, "subscribers": members})
				var answer *http.Response
				var err error
				for range 1000 { // HTTP listens a little later than the rest
					if answer, err = http.Post("http://"+s.http+"/channel", "application/json", bytes.NewReader(body)); err == nil {
						break
					}
					time.Sleep(time.Millisecond)
				}
				if err != nil {
					return err
				}
				defer answer.Body.Close()
				if answer.StatusCode != http.StatusOK {
					return fmt.Errorf("POST /channel: %s", answer.Status)
				}
				return nil
			},
		}
	}
	if len(o.vary) > 0 {
		var all []*kind
		for _, v := range o.vary {
			key, values, _ := strings.Cut(v, "=")
			for value := range strings.SplitSeq(values, ",") {
				all = append(all, gatepost(key+"="+value, "synced", "off", "--set", key+"="+value))
			}
		}
		return all
	}
	bare := func(way, says string, durable bool) *kind {
		return &kind{
			name: "floor-" + way, says: says, durable: durable, publishOnly: true, program: self,
			args: func(dir, addr, _ string) ([]string, error) {
				return []string{"--serve", way, "--work", dir, "--listen", addr}, nil
			},
			dial: func(s *server, id, to string, group bool) (conn, error) { return dialFloor(s.addr) },
		}
	}
	mosquitto := func(name, says, more string) *kind {
		return &kind{
			name: name, says: says, peer: true, program: o.mosquitto,
			args: func(dir, addr, _ string) ([]string, error) {
				_, port, _ := strings.Cut(addr, ":")
				text := "listener " + port + " 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\npersistence_location " + dir +
					"/\nmax_queued_messages 0\nmax_inflight_messages 1000\nlog_type error\n" + more
				name := filepath.Join(dir, "mosquitto.conf")
				return []string{"-c", name}, os.WriteFile(name, []byte(text), 0o600)
			},
			dial: func(s *server, id, to string, group bool) (conn, error) {
				return dialMQTT(s.addr, id, "d/"+to, "", true)
			},
			consumer: func(s *server, id, from string, group bool) (conn, error) {
				return dialMQTT(s.addr, id, "", "d/"+from, false)
			},
			// Without somebody to keep them for, messages are acknowledged and forgotten.
			keep: func(s *server) error {
				c, err := dialMQTT(s.addr, "sink", "", "d/#", false)
				if err == nil {
					c.close()
				}
				return err
			},
		}
	}
	nats := func(name, says, interval string, durable bool) *kind {
		return &kind{
			name: name, says: says, durable: durable, peer: true, program: o.nats,
			args: func(dir, addr, _ string) ([]string, error) {
				host, port, _ := strings.Cut(addr, ":")
				text := fmt.Sprintf("host: %s\nport: %s\nmax_connections: 64000\njetstream {\n  store_dir: %q\n%s}\n", host, port, dir, interval)
				name := filepath.Join(dir, "nats.conf")
				return []string{"-c", name, "-l", os.DevNull}, os.WriteFile(name, []byte(text), 0o600)
			},
			setup: func(s *server) error { return natsStream(s.addr) },
			dial: func(s *server, id, to string, group bool) (conn, error) {
				return dialNATS(s.addr, id, "d."+to, "")
			},
			idle: func(s *server, id string) (conn, error) { return logInNATS(s.addr, id) },
			consumer: func(s *server, id, from string, group bool) (conn, error) {
				return natsConsumer(s.addr, id, "d."+from)
			},
		}
	}
	return []*kind{
		gatepost("gatepost", "synced", "off"),
		gatepost("gatepost-encrypted", "synced", "on"),
		bare("recycled", "synced", true),
		bare("append", "synced", true),
		bare("echo", "received", false),
		{name: "floor-memcpy", says: "copied in memory, by nobody to nobody", publishOnly: true, copies: true, program: self},
		mosquitto("mosquitto", "in memory", ""),
		mosquitto("mosquitto-autosave", "in memory, all written once a second", "autosave_interval 1\n"),
		nats("nats", "in the page cache", "", false),
		nats("nats-always", "synced", "  sync_interval: always\n", true),
	}
}
