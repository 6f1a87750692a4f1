'use strict';
// The Runtime API over one kept-alive connection. Loading Node's own http module would cost a cold start several ms.

const net = require('net');

const BASE = '/2018-06-01/runtime';

class Client {
  constructor(address) {
    const colon = address.lastIndexOf(':');
    this.address = address;
    this.host = address.slice(0, colon);
    this.port = Number(address.slice(colon + 1));
    this.socket = null;
    this.waiting = null; // {resolve, reject} of the reply that is awaited
    this.parts = [];
    this.size = 0;
    this.head = null;
  }

  // An event: {headers (names in lower case), body}. Rejects when the API ends the conversation.
  async next() {
    const reply = await this.exchange('GET', '/invocation/next');
    if (reply.status !== 200) {
      throw new Error(`GET next was answered with ${reply.status}: ${reply.body.toString('utf8', 0, 200)}`);
    }
    return reply;
  }

  async respond(id, fields, body) {
    await this.exchange('POST', `/invocation/${encodeURIComponent(id)}/response`, fields, body);
  }

  async reportError(id, fields, body) {
    await this.exchange('POST', `/invocation/${encodeURIComponent(id)}/error`, fields, body);
  }

  async reportInitError(fields, body) {
    await this.exchange('POST', '/init/error', fields, body);
  }

  exchange(method, path, fields = {}, body = null) {
    return new Promise((resolve, reject) => {
      this._await(resolve, reject);
      const data = body === null ? null : Buffer.from(body);
      const head = this._head(method, path, data === null ? fields : { ...fields, 'Content-Length': data.length });
      if (data === null || data.length === 0) {
        this.socket.write(head);
      } else if (data.length < 65536) {
        this.socket.write(Buffer.concat([head, data]));
      } else {
        this.socket.cork();
        this.socket.write(head);
        this.socket.write(data);
        this.socket.uncork();
      }
    });
  }

  // The chunked response of a streaming handler: write() pieces, then end(); the reply is awaited by `reply`.
  stream(id, fields) {
    const told = {};
    told.reply = new Promise((resolve, reject) => this._await(resolve, reject));
    told.reply.catch(() => {}); // whoever awaits it hears of it
    const socket = this.socket;
    socket.write(this._head('POST', `/invocation/${encodeURIComponent(id)}/response`, fields));
    told.write = (data, done) => {
      if (data.length === 0) {
        done();
        return;
      }
      socket.cork();
      socket.write(`${data.length.toString(16)}\r\n`);
      socket.write(data);
      socket.write('\r\n', done);
      socket.uncork();
    };
    told.end = (trailers) => {
      let text = '0\r\n';
      for (const [name, value] of Object.entries(trailers)) text += `${name}: ${value}\r\n`;
      socket.write(`${text}\r\n`);
    };
    return told;
  }

  // While the handler runs, our connection must not keep the event loop alive: it may be that it waits for its end.
  rest() {
    if (this.socket) this.socket.unref();
  }

  _head(method, path, fields) {
    let text = `${method} ${BASE}${path} HTTP/1.1\r\nHost: ${this.address}\r\nUser-Agent: lambda-sandbox-node\r\n`;
    for (const [name, value] of Object.entries(fields)) {
      for (const one of Array.isArray(value) ? value : [value]) text += `${name}: ${String(one).replace(/[\r\n\0]/g, ' ')}\r\n`;
    }
    return Buffer.from(`${text}\r\n`);
  }

  _await(resolve, reject) {
    this.waiting = { resolve, reject };
    if (this.socket === null) this._connect();
    this.socket.ref();
  }

  _connect() {
    const socket = net.connect({ host: this.host, port: this.port, noDelay: true });
    socket.on('data', (data) => this._data(data));
    const gone = (error) => {
      this.socket = null;
      const { waiting } = this;
      this.waiting = null;
      socket.destroy();
      if (waiting) waiting.reject(error || new Error('the Runtime API closed the connection'));
    };
    socket.on('error', gone);
    socket.on('close', () => { if (this.socket === socket) gone(); });
    this.socket = socket;
    this.parts = [];
    this.size = 0;
    this.head = null;
  }

  _data(data) {
    this.parts.push(data);
    this.size += data.length;
    if (this.head === null) {
      const all = this.parts.length === 1 ? data : Buffer.concat(this.parts);
      const end = all.indexOf('\r\n\r\n');
      this.parts = [all];
      if (end < 0) return;
      const [first, ...lines] = all.toString('utf8', 0, end).split('\r\n');
      const headers = {};
      for (const line of lines) {
        const colon = line.indexOf(':');
        headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
      }
      this.head = { status: Number(first.split(' ', 2)[1]), headers, length: Number(headers['content-length'] || 0) };
      this.parts = [all.subarray(end + 4)];
      this.size = all.length - end - 4;
    }
    if (this.size < this.head.length) return;
    const { status, headers, length } = this.head;
    const all = this.parts.length === 1 ? this.parts[0] : Buffer.concat(this.parts);
    this.head = null;
    this.parts = this.size > length ? [all.subarray(length)] : [];
    this.size -= length;
    const { waiting } = this;
    this.waiting = null;
    if (waiting) waiting.resolve({ status, headers, body: all.subarray(0, length) });
  }
}

module.exports = { Client };
