// Problems in the plane: two classes of points within [-2, 2] x [-2, 2], drawn afresh without end.

/** One point of class c, as [x, y]. */
const PROBLEMS = {
  moons(c, random) {
    const angle = Math.PI * random();
    const x = c ? 1 - Math.cos(angle) : Math.cos(angle);
    const y = c ? 0.5 - Math.sin(angle) : Math.sin(angle);
    return [x - 0.5 + 0.1 * normal(random), y - 0.25 + 0.1 * normal(random)];
  },
  rings(c, random) {
    const angle = 2 * Math.PI * random();
    const radius = (c ? 1.3 : 0.5) + 0.08 * normal(random);
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  },
  spirals(c, random) {
    const along = Math.sqrt(random());
    const radius = 0.2 + 1.2 * along;
    const angle = 1.3 * Math.PI * along + c * Math.PI;
    return [
      radius * Math.cos(angle) + 0.06 * normal(random),
      radius * Math.sin(angle) + 0.06 * normal(random),
    ];
  },
};

/** n points: {x: (n, 2), y: (n, 2) one-hot, c: n classes}. `points` [[x, y, class], ...] are taken in turn
 * where the visitor has placed some, in place of the named problem. */
function sample(problem, n, random, points) {
  const x = new Float32Array(2 * n);
  const y = new Float32Array(2 * n);
  const c = new Uint8Array(n);
  const order = points ? shuffled(points.length, random) : [];
  for (let i = 0; i < n; i++) {
    const placed = points && points[order[i % order.length]];
    c[i] = placed ? placed[2] : i % 2;
    x.set(placed ? placed.slice(0, 2) : PROBLEMS[problem](c[i], random), 2 * i);
    y[2 * i + c[i]] = 1;
  }
  return { x, y, c };
}
