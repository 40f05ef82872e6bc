package api

import (
	"context"
	"crypto/sha256"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A pool of connections that is always busy, or one that says nothing any more,
// keeps nobody out.
func TestCrowdOfKnownOnes(t *testing.T) {
	for name, busy := range map[string]bool{"busy": true, "idle": false} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			const room = 4
			var displaced atomic.Int64
			server := http.Server{
				Handler:     guard(func() *[sha256.Size]byte { return nil }, new(turned), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Millisecond) })),
				ConnContext: remember, ConnState: notice,
			}
			go func() { _ = server.Serve(newCrowd(ln, room, &displaced)) }()
			ask := func(c *http.Client) error {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				r, err := http.NewRequestWithContext(ctx, "GET", "http://"+ln.Addr().String()+"/", nil)
				if err != nil {
					return err
				}
				res, err := c.Do(r)
				if err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					err = res.Body.Close()
				}
				return err
			}
			pool := make([]http.Client, room)
			stop := make(chan struct{})
			var all sync.WaitGroup
			for i := range pool {
				pool[i].Transport = new(http.Transport)
				if err := ask(&pool[i]); err != nil {
					t.Fatal(err)
				}
				all.Go(func() {
					for busy {
						select {
						case <-stop:
							return
						default:
							if err := ask(&pool[i]); err != nil {
								t.Errorf("one of the pool: %v", err)
								return
							}
						}
					}
				})
			}
			for range 5 {
				other := http.Client{Transport: new(http.Transport)}
				if err := ask(&other); err != nil {
					t.Errorf("another one: %v", err)
				}
				other.CloseIdleConnections()
			}
			close(stop)
			all.Wait()
			for i := range pool {
				pool[i].CloseIdleConnections()
			}
			if err := server.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
