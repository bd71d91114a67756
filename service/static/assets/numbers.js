// The arithmetic of the page: cosines, nearest neighbours, principal axes.

/** Return the cosine of every two of `rows` vectors of `size` numbers, `[rows, rows]`; 0 for a vector of length 0. */
export function cosines(vectors, rows, size) {
  const unit = units(vectors, rows, size);
  const result = new Float64Array(rows * rows);
  for (let i = 0; i < rows; i++) {
    for (let j = i; j < rows; j++) {
      result[i * rows + j] = result[j * rows + i] = dot(unit, i * size, unit, j * size, size);
    }
  }
  return result;
}

/** Return all rows but `row`, the most alike first. */
export function nearest(similar, rows, row) {
  const order = [...Array(rows).keys()].filter((other) => other !== row);
  return order.sort((a, b) => similar[row * rows + b] - similar[row * rows + a] || a - b);
}

/**
 * Return the places of vectors on their two principal axes, and the share of their variance on each.
 *
 * What is divided are vectors of length 1, as the cosine has them. The axes come from the small matrix of dot products
 * (`rows` squared, not `size` squared) by subspace iteration, with a Rayleigh-Ritz step at its end.
 *
 * @returns {{places: [number, number][], shares: [number, number]}}
 */
export function principal(vectors, rows, size) {
  const centred = units(vectors, rows, size);
  for (let k = 0; k < size; k++) {
    let mean = 0;
    for (let i = 0; i < rows; i++) mean += centred[i * size + k] / rows;
    for (let i = 0; i < rows; i++) centred[i * size + k] -= mean;
  }
  const gram = new Float64Array(rows * rows);
  let total = 0;
  for (let i = 0; i < rows; i++) {
    for (let j = i; j < rows; j++) {
      gram[i * rows + j] = gram[j * rows + i] = dot(centred, i * size, centred, j * size, size);
    }
    total += gram[i * rows + i];
  }
  const places = Array.from({ length: rows }, () => [0, 0]);
  // Nothing but rounding: the texts are one point.
  if (!(total > 1e-9 * rows)) return { places, shares: [0, 0] };

  const { values, basis } = largest(gram, rows, total);
  const shares = [0, 0];
  for (let axis = 0; axis < Math.min(2, values.length); axis++) {
    const value = Math.max(0, values[axis]);
    if (value < 1e-12 * total) continue;
    shares[axis] = value / total;
    // An axis has no direction of its own: its longest coordinate is positive.
    const farthest = basis[axis].reduce((best, part) => (Math.abs(part) > Math.abs(best) ? part : best), 0);
    const scale = Math.sqrt(value) * (farthest < 0 ? -1 : 1);
    basis[axis].forEach((part, index) => (places[index][axis] = part * scale));
  }
  return { places, shares };
}

function units(vectors, rows, size) {
  const result = Float64Array.from(vectors);
  for (let i = 0; i < rows; i++) {
    const length = Math.sqrt(dot(result, i * size, result, i * size, size));
    if (length > 0) for (let k = 0; k < size; k++) result[i * size + k] /= length;
  }
  return result;
}

function dot(a, atA, b, atB, size) {
  let sum = 0;
  for (let k = 0; k < size; k++) sum += a[atA + k] * b[atB + k];
  return sum;
}

/** Return a symmetric matrix's largest eigenvalues and their vectors, a few more than are asked for. */
function largest(matrix, rows, total) {
  const width = Math.min(rows, 10);
  let seed = 20210509;
  // The same start each time, so that the same texts give the same map.
  const random = () => ((seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) / 2 ** 32 - 0.5);
  let basis = orthonormal(Array.from({ length: width }, () => Float64Array.from({ length: rows }, random)));
  let before = Infinity;
  for (let step = 1; step <= 400; step++) {
    basis = orthonormal(basis.map((vector) => times(matrix, vector)));
    if (step % 10 === 0) {
      const now = basis.slice(0, 2).reduce((sum, vector) => sum + dot(vector, 0, times(matrix, vector), 0, rows), 0);
      if (Math.abs(now - before) < 1e-13 * total) break;
      before = now;
    }
  }
  const images = basis.map((vector) => times(matrix, vector));
  const small = basis.map((left) => images.map((right) => dot(left, 0, right, 0, rows)));
  const { values, vectors } = jacobi(small);
  const order = [...values.keys()].sort((a, b) => values[b] - values[a]);
  return {
    values: order.map((index) => values[index]),
    basis: order.map((index) => {
      const vector = new Float64Array(rows);
      basis.forEach((part, k) => part.forEach((value, i) => (vector[i] += value * vectors[k][index])));
      return vector;
    }),
  };
}

function times(matrix, vector) {
  const rows = vector.length;
  return Float64Array.from({ length: rows }, (_, i) => dot(matrix, i * rows, vector, 0, rows));
}

/** Gram-Schmidt, twice; what is left of nothing is nothing. */
function orthonormal(vectors) {
  const result = [];
  for (const vector of vectors) {
    const before = Math.sqrt(dot(vector, 0, vector, 0, vector.length));
    for (let pass = 0; pass < 2; pass++) {
      for (const other of result) {
        const part = dot(vector, 0, other, 0, vector.length);
        for (let i = 0; i < vector.length; i++) vector[i] -= part * other[i];
      }
    }
    const length = Math.sqrt(dot(vector, 0, vector, 0, vector.length));
    const scale = length > 1e-12 * before ? 1 / length : 0;
    for (let i = 0; i < vector.length; i++) vector[i] *= scale;
    result.push(vector);
  }
  return result;
}

/** Return all eigenvalues of a small symmetric matrix, and its vectors as columns (Jacobi's rotations). */
function jacobi(matrix) {
  const size = matrix.length;
  const a = matrix.map((row) => [...row]);
  const vectors = a.map((_, i) => a.map((_row, j) => (i === j ? 1 : 0)));
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0;
    for (let p = 0; p < size; p++) for (let q = p + 1; q < size; q++) off += a[p][q] ** 2;
    if (off < 1e-30) break;
    for (let p = 0; p < size; p++) {
      for (let q = p + 1; q < size; q++) {
        if (a[p][q] === 0) continue;
        const angle = (a[q][q] - a[p][p]) / (2 * a[p][q]);
        const t = Math.sign(angle || 1) / (Math.abs(angle) + Math.hypot(angle, 1));
        const c = 1 / Math.hypot(t, 1);
        const s = t * c;
        for (let k = 0; k < size; k++) [a[k][p], a[k][q]] = [c * a[k][p] - s * a[k][q], s * a[k][p] + c * a[k][q]];
        for (let k = 0; k < size; k++) [a[p][k], a[q][k]] = [c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]];
        for (const row of vectors) [row[p], row[q]] = [c * row[p] - s * row[q], s * row[p] + c * row[q]];
      }
    }
  }
  return { values: a.map((row, i) => row[i]), vectors };
}
