/** Text chunks of a PNG (specification, 11.3.3), where Stable Diffusion tools keep the settings of a picture. */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/** All `tEXt` and uncompressed `iTXt` chunks by keyword; empty when it is no PNG. */
export function readPngText(bytes: Uint8Array): Map<string, string> {
  const found = new Map<string, string>();
  if (bytes.length < 8 || SIGNATURE.some((byte, index) => bytes[index] !== byte)) return found;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (data.length < length || type === "IEND") break;
    const end = data.indexOf(0);
    if (end > 0 && (type === "tEXt" || type === "iTXt")) {
      const keyword = new TextDecoder("latin1").decode(data.subarray(0, end));
      const text = type === "tEXt" ? new TextDecoder("latin1").decode(data.subarray(end + 1)) : internationalText(data, end);
      if (text !== null) found.set(keyword, text);
    }
    at += 12 + length;
  }
  return found;
}

/** Behind the keyword: compression flag, method, language, translated keyword, text. Compressed ones are left alone. */
function internationalText(data: Uint8Array, keywordEnd: number): string | null {
  if (data[keywordEnd + 1] !== 0) return null;
  const languageEnd = data.indexOf(0, keywordEnd + 3);
  const translatedEnd = languageEnd < 0 ? -1 : data.indexOf(0, languageEnd + 1);
  return translatedEnd < 0 ? null : new TextDecoder().decode(data.subarray(translatedEnd + 1));
}
