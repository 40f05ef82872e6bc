// One user on the official SDK, driven line by line: a JSON object on standard
// input is a command, one on standard output is what happened. The SDK's own
// chatter goes to standard error.
import WebSocket from "ws";
import { createInterface } from "readline";
import { WKSDK, Channel } from "wukongimjssdk/lib/sdk";

global.WebSocket = WebSocket;
console.log = console.error;
const say = (o) => process.stdout.write(JSON.stringify(o) + "\n");

const sdk = WKSDK.shared();
sdk.config.heartbeatInterval = 500; // ms; four PINGs without a PONG end the connection

sdk.connectManager.addConnectStatusListener((status, reason) => say({ event: "status", status, reason: reason ?? 0 }));
sdk.chatManager.addMessageStatusListener((p) =>
  say({ event: "ack", client: p.clientSeq, id: p.messageID.toString(), seq: p.messageSeq, reason: p.reasonCode }));
sdk.chatManager.addMessageListener((m) => {
  if (!m.messageSeq) return; // the SDK's echo of what it just sent
  say({ event: "message", from: m.fromUID, channel: m.channel.channelID, kind: m.channel.channelType,
    id: m.messageID.toString(), seq: m.messageSeq, text: m.content.text });
});

const commands = {
  connect(c) {
    sdk.config.addr = c.addr;
    sdk.config.uid = c.uid;
    sdk.config.token = "";
    sdk.connectManager.connect();
  },
  send(c) {
    sdk.chatManager.send(sdk.newMessageText(c.text), new Channel(c.to, c.kind)).then((m) => say({ event: "sent", client: m.clientSeq, text: c.text }));
  },
  disconnect() {
    sdk.connectManager.disconnect();
    say({ event: "disconnected" });
  },
};

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const c = JSON.parse(line);
    commands[c.do](c);
  })
  .on("close", () => process.exit(0));
