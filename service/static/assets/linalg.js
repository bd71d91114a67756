// Linear algebra of the page: cosine similarity, nearest neighbors, principal component analysis.

// Above the two components in use, so that subspace iteration converges faster.
const MAX_SUBSPACE_DIMENSION = 10;
const MAX_ITERATIONS = 400;
const MAX_SWEEPS = 60;

/** Return the cosine similarities of `rows` vectors of `size` dimensions, `[rows, rows]`; 0 for a zero vector. */
export function cosineMatrix(vectors, rows, size) {
  const normalized = normalizeRows(vectors, rows, size);
  const result = new Float64Array(rows * rows);
  for (let i = 0; i < rows; i++) {
    for (let j = i; j < rows; j++) {
      result[i * rows + j] = result[j * rows + i] = dot(normalized, i * size, normalized, j * size, size);
    }
  }
  return result;
}

/** Return the other rows by descending similarity to `row`. */
export function nearestNeighbors(similarities, rows, row) {
  const order = [...Array(rows).keys()].filter((other) => other !== row);
  return order.sort((a, b) => similarities[row * rows + b] - similarities[row * rows + a] || a - b);
}

/**
 * Return the first two principal components of vectors, and the ratio of the variance that each explains.
 *
 * The vectors are L2-normalized first, as for the cosine. Subspace iteration with a final Rayleigh-Ritz step finds the
 * eigenvectors of the Gram matrix, which is smaller (`rows` squared) than the covariance matrix (`size` squared).
 *
 * @returns {{coordinates: [number, number][], explainedVariance: [number, number]}}
 */
export function principalComponents(vectors, rows, size) {
  const centered = normalizeRows(vectors, rows, size);
  for (let k = 0; k < size; k++) {
    let mean = 0;
    for (let i = 0; i < rows; i++) mean += centered[i * size + k] / rows;
    for (let i = 0; i < rows; i++) centered[i * size + k] -= mean;
  }
  const gram = new Float64Array(rows * rows);
  let total = 0;
  for (let i = 0; i < rows; i++) {
    for (let j = i; j < rows; j++) {
      gram[i * rows + j] = gram[j * rows + i] = dot(centered, i * size, centered, j * size, size);
    }
    total += gram[i * rows + i];
  }
  const coordinates = Array.from({ length: rows }, () => [0, 0]);
  // The variance is rounding error: all vectors are equal.
  if (!(total > 1e-9 * rows)) return { coordinates, explainedVariance: [0, 0] };

  const { values, basis } = topEigenvectors(gram, rows, total);
  const explainedVariance = [0, 0];
  for (let axis = 0; axis < Math.min(2, values.length); axis++) {
    const value = Math.max(0, values[axis]);
    if (value < 1e-12 * total) continue;
    explainedVariance[axis] = value / total;
    // The sign of an eigenvector is arbitrary: its component of largest magnitude is made positive.
    const extreme = basis[axis].reduce((best, component) => (Math.abs(component) > Math.abs(best) ? component : best), 0);
    const scale = Math.sqrt(value) * (extreme < 0 ? -1 : 1);
    basis[axis].forEach((component, index) => (coordinates[index][axis] = component * scale));
  }
  return { coordinates, explainedVariance };
}

function normalizeRows(vectors, rows, size) {
  const result = Float64Array.from(vectors);
  for (let i = 0; i < rows; i++) {
    const norm = Math.sqrt(dot(result, i * size, result, i * size, size));
    if (norm > 0) for (let k = 0; k < size; k++) result[i * size + k] /= norm;
  }
  return result;
}

function dot(a, offsetA, b, offsetB, size) {
  let sum = 0;
  for (let k = 0; k < size; k++) sum += a[offsetA + k] * b[offsetB + k];
  return sum;
}

/** Return the largest eigenvalues of a symmetric matrix, in descending order, and their eigenvectors. */
function topEigenvectors(matrix, rows, total) {
  const dimension = Math.min(rows, MAX_SUBSPACE_DIMENSION);
  let seed = 20210509;
  // A fixed seed makes the result reproducible.
  const random = () => ((seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) / 2 ** 32 - 0.5);
  let basis = orthonormalize(Array.from({ length: dimension }, () => Float64Array.from({ length: rows }, random)));
  let previousTrace = Infinity;
  for (let step = 1; step <= MAX_ITERATIONS; step++) {
    basis = orthonormalize(basis.map((vector) => multiply(matrix, vector)));
    if (step % 10 === 0) {
      const trace = basis.slice(0, 2).reduce((sum, vector) => sum + dot(vector, 0, multiply(matrix, vector), 0, rows), 0);
      if (Math.abs(trace - previousTrace) < 1e-13 * total) break;
      previousTrace = trace;
    }
  }
  const products = basis.map((vector) => multiply(matrix, vector));
  const projected = basis.map((left) => products.map((right) => dot(left, 0, right, 0, rows)));
  const { values, vectors } = jacobiEigen(projected);
  const order = [...values.keys()].sort((a, b) => values[b] - values[a]);
  return {
    values: order.map((index) => values[index]),
    basis: order.map((index) => {
      const vector = new Float64Array(rows);
      basis.forEach((basisVector, k) => basisVector.forEach((value, i) => (vector[i] += value * vectors[k][index])));
      return vector;
    }),
  };
}

function multiply(matrix, vector) {
  const rows = vector.length;
  return Float64Array.from({ length: rows }, (_, i) => dot(matrix, i * rows, vector, 0, rows));
}

/** Orthonormalize vectors by Gram-Schmidt with reorthogonalization; linearly dependent ones become zero. */
function orthonormalize(vectors) {
  const result = [];
  for (const vector of vectors) {
    const initialNorm = Math.sqrt(dot(vector, 0, vector, 0, vector.length));
    for (let pass = 0; pass < 2; pass++) {
      for (const other of result) {
        const projection = dot(vector, 0, other, 0, vector.length);
        for (let i = 0; i < vector.length; i++) vector[i] -= projection * other[i];
      }
    }
    const norm = Math.sqrt(dot(vector, 0, vector, 0, vector.length));
    const scale = norm > 1e-12 * initialNorm ? 1 / norm : 0;
    for (let i = 0; i < vector.length; i++) vector[i] *= scale;
    result.push(vector);
  }
  return result;
}

/** Return the eigenvalues of a small symmetric matrix, and its eigenvectors as columns, by Jacobi rotations. */
function jacobiEigen(matrix) {
  const size = matrix.length;
  const a = matrix.map((row) => [...row]);
  const vectors = a.map((_, i) => a.map((_row, j) => (i === j ? 1 : 0)));
  for (let sweep = 0; sweep < MAX_SWEEPS; sweep++) {
    let offDiagonal = 0;
    for (let p = 0; p < size; p++) for (let q = p + 1; q < size; q++) offDiagonal += a[p][q] ** 2;
    if (offDiagonal < 1e-30) break;
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
