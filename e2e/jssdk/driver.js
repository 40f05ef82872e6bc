// One user on the official SDK, driven line by line: a JSON object on standard
// input is a command, one on standard output is what happened. The SDK's own
// chatter goes to standard error.
import WebSocket from "ws";
import { createInterface } from "readline";
import { WKSDK, Channel, Conversation, Message, MessageText } from "wukongimjssdk/lib/sdk";

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

// What an application has to bring: the SDK asks it for conversations and history,
// it asks the server over HTTP.
let http = "";
const ask = async (path, body) => {
  const res = await fetch(`http://${http}${path}`, { method: "POST", body: JSON.stringify(body) });
  if (!res.ok) throw new Error(`${path}: ${res.status} ${await res.text()}`);
  return res.json();
};
const message = (m) => {
  const r = new Message();
  r.messageID = m.message_idstr;
  r.messageSeq = m.message_seq;
  r.clientMsgNo = m.client_msg_no;
  r.fromUID = m.from_uid;
  r.channel = new Channel(m.channel_id, m.channel_type);
  r.timestamp = m.timestamp;
  r.content = new MessageText();
  r.content.decode(Buffer.from(m.payload, "base64"));
  return r;
};
sdk.config.provider.syncConversationsCallback = async () => {
  const lines = await ask("/conversation/sync", { uid: sdk.config.uid, msg_count: 1 });
  return lines.map((l) => {
    const c = new Conversation();
    c.channel = new Channel(l.channel_id, l.channel_type);
    c.unread = l.unread;
    c.timestamp = l.timestamp;
    if (l.recents.length > 0) c.lastMessage = message(l.recents[0]);
    return c;
  });
};
sdk.config.provider.syncMessagesCallback = async (channel, o) => {
  const page = await ask("/channel/messagesync", { login_uid: sdk.config.uid, channel_id: channel.channelID, channel_type: channel.channelType,
    start_message_seq: o.startMessageSeq, end_message_seq: o.endMessageSeq, limit: o.limit, pull_mode: o.pullMode });
  return page.messages.map(message);
};
const fails = (e) => say({ event: "failed", text: String(e) });

const commands = {
  conversations() {
    sdk.conversationManager.sync().then((all) => {
      for (const c of all) say({ event: "conversation", channel: c.channel.channelID, kind: c.channel.channelType, seq: c.unread, text: c.lastMessage?.content.text ?? "" });
      say({ event: "listed", seq: all.length });
    }).catch(fails);
  },
  history(c) {
    sdk.chatManager.syncMessages(new Channel(c.channel, c.kind), { startMessageSeq: c.start, endMessageSeq: 0, limit: c.limit, pullMode: 0 }).then((all) =>
      say({ event: "page", text: all.map((m) => `${m.messageSeq} ${m.fromUID} ${m.content.text}`).join("|") })).catch(fails);
  },
  connect(c) {
    sdk.config.addr = c.addr;
    sdk.config.uid = c.uid;
    sdk.config.token = c.token ?? "";
    http = c.http ?? "";
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
