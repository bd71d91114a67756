// Lines that a person wrote become texts and pairs.

/** Texts that the page takes: beyond, a map is a cloud, and the matrix has more than 90,000 cells. */
export const MOST_TEXTS = 300;

const SEPARATOR = /\t| \| /;

/**
 * Return the texts of lines; empty ones are none.
 *
 * In pairs a tab, or a bar with a space on each side, divides a line at its first place; a line without is one text.
 *
 * @returns {{first: string, second: ?string, line: number}[]} `line` counts from 1.
 */
export function parse(written, { pairs }) {
  return written
    .split(/\r\n|\r|\n/)
    .map((text, index) => ({ text, line: index + 1 }))
    .filter(({ text }) => text.trim() !== "")
    .map(({ text, line }) => {
      const found = pairs ? SEPARATOR.exec(text) : null;
      if (!found) return { first: text.trim(), second: null, line };
      return {
        first: text.slice(0, found.index).trim(),
        second: text.slice(found.index + found[0].length).trim(),
        line,
      };
    });
}

/** Return a text as the service takes it. */
export function wire({ first, second }) {
  return second === null ? first : [first, second];
}

/** Return a text as one line to read. */
export function oneLine({ first, second }) {
  return second === null ? first : `${first} \u2502 ${second}`;
}
