// Parse the text box into single texts and text pairs.

/** Maximum number of texts on the page: more would give a similarity matrix of over 90,000 cells. */
export const MAX_TEXTS = 300;

const PAIR_SEPARATOR = /\t| \| /;

/**
 * Return the text of each non-empty line.
 *
 * In pair mode the first tab or " | " separates the two texts of a line; a line without a separator is a single text.
 *
 * @param {string} value The content of the text box.
 * @param {{pairs: boolean}} options
 * @returns {{first: string, second: ?string, line: number}[]} `line` counts from 1.
 */
export function parseLines(value, { pairs }) {
  return value
    .split(/\r\n|\r|\n/)
    .map((text, index) => ({ text, line: index + 1 }))
    .filter(({ text }) => text.trim() !== "")
    .map(({ text, line }) => {
      const separator = pairs ? PAIR_SEPARATOR.exec(text) : null;
      if (!separator) return { first: text.trim(), second: null, line };
      return {
        first: text.slice(0, separator.index).trim(),
        second: text.slice(separator.index + separator[0].length).trim(),
        line,
      };
    });
}

/** Return a text or pair as a request encodes it in JSON. */
export function toPayload({ first, second }) {
  return second === null ? first : [first, second];
}

/** Return a text or pair as one line for display. */
export function toDisplayText({ first, second }) {
  return second === null ? first : `${first} \u2502 ${second}`;
}
