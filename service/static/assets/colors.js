// Sequential color scales for values. Lightness is linear in OKLab, which is perceptually uniform, so that a matrix is
// readable in grayscale and with color vision deficiency. High values contrast with the background of the page.

const STEPS = 256;
const CHROMA_STEP = 0.004;
// Chroma, and hue in degrees, at equal intervals of the scale.
const HUES = [
  [0.018, 105],
  [0.085, 165],
  [0.11, 225],
  [0.13, 272],
];
const LIGHT = { from: 0.965, to: 0.31, hues: HUES };
const DARK = { from: 0.235, to: 0.93, hues: [...HUES].reverse().map(([chroma, hue]) => [Math.max(chroma, 0.05), hue]) };

const cache = new Map();

/** Return the color scale of the light or dark scheme from low to high, as `[red, green, blue]` of 0 to 255. */
export function colorScale(dark) {
  if (!cache.has(dark)) {
    const { from, to, hues } = dark ? DARK : LIGHT;
    cache.set(
      dark,
      Array.from({ length: STEPS }, (_, step) => {
        const ratio = step / (STEPS - 1);
        const position = ratio * (hues.length - 1);
        const index = Math.min(hues.length - 2, Math.floor(position));
        const interpolate = (k) => hues[index][k] + (hues[index + 1][k] - hues[index][k]) * (position - index);
        return toSrgb(from + (to - from) * ratio, interpolate(0), interpolate(1));
      }),
    );
  }
  return cache.get(dark);
}

/** Return the color of a value on a scale from `low` to `high`. */
export function colorOf(value, low, high, dark) {
  const ratio = high > low ? (value - low) / (high - low) : 1;
  return colorScale(dark)[Math.round(Math.min(1, Math.max(0, ratio)) * (STEPS - 1))];
}

/** Format a color for CSS. */
export function toCss([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

/** Return black or white, whichever has a contrast of at least 4.5 to 1 on a color (WCAG 2). */
export function textColorOn(color) {
  return luminance(color) > 0.179 ? "#000" : "#fff";
}

/** Return the relative luminance of a color (WCAG 2). */
export function luminance(color) {
  const [red, green, blue] = color.map((channel) => {
    const value = channel / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** Convert an OKLCH color to sRGB; reduce the chroma, not the lightness, of one outside the gamut. */
function toSrgb(lightness, chroma, hue) {
  for (let reduced = chroma; ; reduced -= CHROMA_STEP) {
    const linear = toLinearSrgb(lightness, Math.max(0, reduced), hue);
    if (reduced <= 0 || linear.every((channel) => channel > -0.0005 && channel < 1.0005)) {
      return linear.map((channel) => {
        const value = Math.min(1, Math.max(0, channel));
        return Math.round(255 * (value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055));
      });
    }
  }
}

/** Convert an OKLCH color to linear sRGB, with the matrices of Björn Ottosson's OKLab. */
function toLinearSrgb(lightness, chroma, hue) {
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
