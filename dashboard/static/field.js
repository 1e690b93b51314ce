// Colors and contour lines of a field of values over a square grid.

/** Return 256 colors, [red, green, blue, 255] each: from `low` over `middle` to `high`, which are "#rrggbb". */
export function mixed(low, middle, high) {
  const [a, b, c] = [low, middle, high].map((one) => [1, 3, 5].map((at) => Number.parseInt(one.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, at) => {
    const [from, to, t] = at < 128 ? [a, b, at / 127.5] : [b, c, at / 127.5 - 1];
    return [...from.map((one, channel) => Math.round(one + t * (to[channel] - one))), 255];
  });
}

/** Return the lines where `values` (size × size, row by row) cross `level`: marching squares, as [x, y, x, y] in cells. */
export function contour(values, size, level) {
  const lines = [];
  for (let y = 0; y + 1 < size; y += 1) {
    for (let x = 0; x + 1 < size; x += 1) {
      const at = y * size + x;
      const corners = [values[at], values[at + 1], values[at + size + 1], values[at + size]];
      const cuts = [];
      for (let side = 0; side < 4; side += 1) {
        const [one, other] = [corners[side], corners[(side + 1) % 4]];
        if (one > level !== other > level) cuts.push(cut(side, (level - one) / (other - one), x, y));
      }
      for (let pair = 0; pair + 1 < cuts.length; pair += 2) lines.push([...cuts[pair], ...cuts[pair + 1]]);
    }
  }
  return lines;
}

/** Return the point `t` of the way along a side of the cell: bottom, right, top (backwards), left (backwards). */
function cut(side, t, x, y) {
  return [[x + t, y], [x + 1, y + t], [x + 1 - t, y + 1], [x, y + 1 - t]][side];
}
