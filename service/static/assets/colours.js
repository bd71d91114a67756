// Colours for numbers. Lightness runs evenly with the value in OKLab, which is made so that equal steps look equal;
// more is darker on light paper and lighter on dark, so that a matrix reads in grey and to the colour-blind as well.

const STEPS = 256;
// Chroma and hue, in degrees, at even distances between 0 and 1.
const HUES = [
  [0.018, 105],
  [0.085, 165],
  [0.11, 225],
  [0.13, 272],
];
const LIGHT = { from: 0.965, to: 0.31, hues: HUES };
const DARK = { from: 0.235, to: 0.93, hues: [...HUES].reverse().map(([chroma, hue]) => [Math.max(chroma, 0.05), hue]) };

const made = new Map();

/** Return the scale as `[red, green, blue]` of 0 to 255, from nothing to all, for a light or dark page. */
export function scale(dark) {
  if (!made.has(dark)) {
    const { from, to, hues } = dark ? DARK : LIGHT;
    made.set(
      dark,
      Array.from({ length: STEPS }, (_, step) => {
        const at = step / (STEPS - 1);
        const place = at * (hues.length - 1);
        const index = Math.min(hues.length - 2, Math.floor(place));
        const between = (k) => hues[index][k] + (hues[index + 1][k] - hues[index][k]) * (place - index);
        return inGamut(from + (to - from) * at, between(0), between(1));
      }),
    );
  }
  return made.get(dark);
}

/** Return a value's colour on a scale that runs from `low` to `high`. */
export function colourOf(value, low, high, dark) {
  const share = high > low ? (value - low) / (high - low) : 1;
  return scale(dark)[Math.round(Math.min(1, Math.max(0, share)) * (STEPS - 1))];
}

/** Write a colour for CSS. */
export function css([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

/** Return black or white, whichever can be read better on a colour: at least 4.5 to 1 (WCAG 2). */
export function inkOn(colour) {
  return luminance(colour) > 0.179 ? "#000" : "#fff";
}

/** Return a colour's relative luminance (WCAG 2). */
export function luminance(colour) {
  const [red, green, blue] = colour.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** Return an OKLCH colour as sRGB; one that a screen has not gives up chroma, never lightness. */
function inGamut(lightness, chroma, hue) {
  for (let strength = chroma; ; strength -= 0.004) {
    const linear = toLinear(lightness, Math.max(0, strength), hue);
    if (strength <= 0 || linear.every((part) => part > -0.0005 && part < 1.0005)) {
      return linear.map((part) => {
        const share = Math.min(1, Math.max(0, part));
        return Math.round(255 * (share <= 0.0031308 ? 12.92 * share : 1.055 * share ** (1 / 2.4) - 0.055));
      });
    }
  }
}

// The matrices of Björn Ottosson's OKLab.
function toLinear(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
}
