// Reads overview.json out of a .v4trace file, and no more of the file than is needed for that.

const HEAD = 128 * 1024;
const OVERVIEW = 16 * 1024 ** 2;
const WHOLE = 32 * 1024 ** 2;
const MEMBER = 0x04034b50;
const ENTRY = 0x02014b50;
const END = 0x06054b50;
const NAME = "overview.json";

/**
 * The overview inside a file, and whether the file's end is there too.
 *
 * @param size Bytes of the file.
 * @param read Returns the bytes from one place to another: `await read(start, end)`.
 */
export async function overviewOf(size, read) {
  const head = await read(0, Math.min(size, HEAD));
  if (head.length < 30 || number32(head, 0) !== MEMBER) {
    throw new Error(size ? "It does not begin as a zip file does." : "It is empty.");
  }
  let member = memberAt(head, 0);
  if (member.name !== NAME) member = await find(size, read);
  const { start, length } = member;
  if (start + length > size) throw new Error("It ends in the midst of its overview.");
  if (member.compressed || length > OVERVIEW) throw new Error("Its overview is no plain JSON.");
  const inside = start + length <= head.length;
  const bytes = inside ? head.subarray(start, start + length) : await read(start, start + length);
  let overview;
  try {
    overview = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new Error("Its overview is damaged.");
  }
  return { overview, complete: (await end(size, read)) !== null };
}

/** A function that reads parts of a file on the server, for `overviewOf`. */
export function reader(contents, { ServerConnection }, path, size) {
  let whole = null;
  return async (start, stop) => {
    const bytes = whole ? null : await part(contents, ServerConnection, path, start, stop, size);
    if (bytes) return bytes;
    whole ??= await all(contents, path, size);
    return whole.subarray(start, stop);
  };
}

/** Bytes of a file, or null where the server knows no ranges. */
async function part(contents, { makeRequest }, path, start, stop, size) {
  if (stop <= start) return new Uint8Array();
  const url = await contents.getDownloadUrl(path);
  const range = { headers: { Range: `bytes=${start}-${stop - 1}` } };
  const reply = await makeRequest(url, range, contents.serverSettings).catch(() => null);
  const right = reply?.status === 206 || (reply?.status === 200 && stop - start === size);
  if (right) return new Uint8Array(await reply.arrayBuffer());
  // It begins to send the whole file: stop it.
  await reply?.body?.cancel();
  return null;
}

async function all(contents, path, size) {
  if (size > WHOLE) {
    throw new Error(
      `The server sends whole files only, and this one has ${Math.round(size / 1024 ** 2)} MB; ` +
        "up to 32 MB are fetched whole.",
    );
  }
  const options = { type: "file", format: "base64", content: true };
  const { content } = await contents.get(path, options);
  return Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
}

const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const number16 = (bytes, place) => view(bytes).getUint16(place, true);
const number32 = (bytes, place) => view(bytes).getUint32(place, true);

/** The member whose local header stands at the beginning of the bytes, `offset` in the file. */
function memberAt(bytes, offset) {
  const [named, extra] = [number16(bytes, 26), number16(bytes, 28)];
  return {
    name: new TextDecoder().decode(bytes.subarray(30, 30 + named)),
    compressed: number16(bytes, 8) !== 0 || (number16(bytes, 6) & 1) !== 0,
    start: offset + 30 + named + extra,
    length: number32(bytes, 22),
  };
}

/** The record that ends a zip file, or null if it is missing. */
async function end(size, read) {
  const from = Math.max(0, size - 1024);
  const bytes = await read(from, size);
  for (let place = bytes.length - 22; place >= 0; place--) {
    if (number32(bytes, place) === END) return bytes.subarray(place);
  }
  return null;
}

/** The overview's member in a file that another program packed: it stands in the directory. */
async function find(size, read) {
  const record = await end(size, read);
  if (record === null) throw new Error("Its end is missing: a copy or a download broke off.");
  const [length, from] = [number32(record, 12), number32(record, 16)];
  const small = length <= OVERVIEW && from + length <= size;
  const directory = small ? await read(from, from + length) : new Uint8Array();
  for (let place = 0; place + 46 <= directory.length && number32(directory, place) === ENTRY; ) {
    const named = number16(directory, place + 28);
    const name = new TextDecoder().decode(directory.subarray(place + 46, place + 46 + named));
    if (name === NAME) {
      const offset = number32(directory, place + 42);
      const header = await read(offset, Math.min(size, offset + 30 + NAME.length));
      return { ...memberAt(header, offset), length: number32(directory, place + 24) };
    }
    place += 46 + named + number16(directory, place + 30) + number16(directory, place + 32);
  }
  throw new Error(`It is a zip file without ${NAME}.`);
}
