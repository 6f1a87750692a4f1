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
    this.repeat = null; // writes the request under way once more; null if that cannot be done, or was done
    this.used = false; // whether this connection has brought a reply
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
      const write = () => {
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
      };
      this.repeat = write;
      write();
    });
  }

  // The chunked response of a streaming handler: write() pieces, then end(); the reply is awaited by `reply`.
  stream(id, fields) {
    const told = {};
    told.reply = new Promise((resolve, reject) => this._await(resolve, reject));
    told.reply.catch(() => {}); // whoever awaits it hears of it
    this.repeat = null;
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
      socket.destroy();
      if (this.socket !== socket) return;
      this.socket = null;
      const { repeat, waiting } = this;
      this.repeat = null;
      if (waiting && repeat && this.used) { // it was closed while nobody used it; an answer that came is not taken twice
        this._connect();
        repeat();
        return;
      }
      this.waiting = null;
      if (waiting) waiting.reject(error || new Error('the Runtime API closed the connection'));
    };
    socket.on('error', gone);
    socket.on('close', () => gone());
    this.socket = socket;
    this.used = false;
    this.parts = [];
    this.size = 0;
    this.head = null;
  }

  _data(data) {
    this.repeat = null;
    this.parts.push(data);
    this.size += data.length;
    while (this.head === null) {
      const all = this.parts.length === 1 ? this.parts[0] : Buffer.concat(this.parts);
      const end = all.indexOf('\r\n\r\n');
      this.parts = [all];
      if (end < 0) return;
      const [first, ...lines] = all.toString('utf8', 0, end).split('\r\n');
      const headers = {};
      for (const line of lines) {
        const colon = line.indexOf(':');
        headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
      }
      const status = Number(first.split(' ', 2)[1]);
      this.parts = [all.subarray(end + 4)];
      this.size = all.length - end - 4;
      if (status < 200) continue; // the reply proper is still to come
      const chunks = headers['transfer-encoding'] === undefined ? null : [];
      this.head = { status, headers, length: Number(headers['content-length'] || 0), chunks, ended: false };
    }
    const body = this.head.chunks === null ? this._body() : this._chunks();
    if (body === null) return;
    const { status, headers } = this.head;
    this.head = null;
    this.used = true;
    if (headers.connection !== undefined && headers.connection.toLowerCase() === 'close') {
      this.socket.destroy();
      this.socket = null;
    }
    const { waiting } = this;
    this.waiting = null;
    if (waiting) waiting.resolve({ status, headers, body });
  }

  // The body when all of it has come; null before that.
  _body() {
    const { length } = this.head;
    if (this.size < length) return null;
    const all = this.parts.length === 1 ? this.parts[0] : Buffer.concat(this.parts);
    this.parts = this.size > length ? [all.subarray(length)] : [];
    this.size -= length;
    return all.subarray(0, length);
  }

  // The same of a body in chunks: AWS's emulator sends larger events so.
  _chunks() {
    const all = Buffer.concat(this.parts);
    const { chunks } = this.head;
    let at = 0;
    let body = null;
    while (body === null) {
      const end = all.indexOf('\r\n', at);
      if (end < 0) break;
      if (this.head.ended) { // trailers, until an empty line
        if (end === at) body = Buffer.concat(chunks);
        at = end + 2;
        continue;
      }
      const size = Number.parseInt(all.toString('latin1', at, end), 16); // extensions may follow it
      if (!(size >= 0)) {
        this.socket.destroy(new Error('a chunk of the reply has no length'));
        return null;
      }
      if (size > 0 && all.length < end + size + 4) break;
      if (size > 0) chunks.push(all.subarray(end + 2, end + 2 + size));
      else this.head.ended = true;
      at = size > 0 ? end + size + 4 : end + 2;
    }
    this.parts = [all.subarray(at)];
    this.size = all.length - at;
    return body;
  }
}

module.exports = { Client };
