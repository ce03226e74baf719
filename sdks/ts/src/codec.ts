/**
 * Hand-written encoding of the two messages that are sent for every task, and decoding of the answers. The general
 * encoder of protobuf-es walks descriptors, which costs several microseconds for each message; a test compares both.
 */

const SCRATCH_BYTES = 4096;

/** Writes protobuf fields into a scratch buffer. */
export class FieldWriter {
  #data = Buffer.allocUnsafe(SCRATCH_BYTES);
  #at = 0;

  /** Starts a message. */
  begin(): this {
    this.#at = 0;
    return this;
  }

  /** Writes a text; `tag` is the field's tag, below 128 or below 16384. */
  text(tag: number, value: string): void {
    // A UTF-16 unit takes at most three bytes in UTF-8.
    this.#reserve(value.length * 3 + 12);
    this.#varint(tag);
    if (value.length < 42) {
      // The length then fits into one byte, whatever the characters.
      const size = this.#data.write(value, this.#at + 1, "utf8");
      this.#data[this.#at] = size;
      this.#at += 1 + size;
      return;
    }
    const size = Buffer.byteLength(value, "utf8");
    this.#varint(size);
    this.#at += this.#data.write(value, this.#at, "utf8");
  }

  /** Writes bytes. */
  bytes(tag: number, value: Uint8Array): void {
    this.#reserve(value.length + 12);
    this.#varint(tag);
    this.#varint(value.length);
    this.#data.set(value, this.#at);
    this.#at += value.length;
  }

  /** Writes a whole number of at most 53 bits, not negative. */
  number(tag: number, value: number): void {
    this.#reserve(24);
    this.#varint(tag);
    this.#varint(value);
  }

  /** Writes a 64-bit number. */
  bigint(tag: number, value: bigint): void {
    if (value <= Number.MAX_SAFE_INTEGER) {
      this.number(tag, Number(value));
      return;
    }
    this.#reserve(24);
    this.#varint(tag);
    let rest = value;
    while (rest > 127n) {
      this.#data[this.#at++] = Number(rest & 127n) | 128;
      rest >>= 7n;
    }
    this.#data[this.#at++] = Number(rest);
  }

  /** Returns the message as a field of another one: its tag, its length and its bytes. */
  asField(tag: number): Uint8Array {
    const size = this.#at;
    let head = 2;
    for (let rest = size; rest > 127; rest = Math.floor(rest / 128)) head += 1;
    const data = Buffer.allocUnsafe(head + size);
    data[0] = tag;
    let at = 1;
    let rest = size;
    while (rest > 127) {
      data[at++] = (rest & 127) | 128;
      rest >>>= 7;
    }
    data[at] = rest;
    this.#data.copy(data, head, 0, size);
    if (this.#data.length > 1 << 20) this.#data = Buffer.allocUnsafe(SCRATCH_BYTES);
    return data;
  }

  /** Returns the fields written so far. */
  end(): Uint8Array {
    return Buffer.from(this.#data.subarray(0, this.#at));
  }

  #varint(value: number): void {
    let rest = value;
    while (rest > 127) {
      this.#data[this.#at++] = (rest % 128) | 128;
      rest = Math.floor(rest / 128);
    }
    this.#data[this.#at++] = rest;
  }

  #reserve(more: number): void {
    if (this.#at + more <= this.#data.length) return;
    const grown = Buffer.allocUnsafe(Math.max(this.#data.length * 2, this.#at + more));
    this.#data.copy(grown, 0, 0, this.#at);
    this.#data = grown;
  }
}

