// Runs the playground's own files in Node, as the worker does: `node playground_numbers.js FOLDER < asked.json`
// answers with JSON. asked: {meta: arrays, data: what build.py puts into the page, steps: of each network,
// actions and start: of a cart and pole}.
const fs = require("fs");
const vm = require("vm");

const [folder] = process.argv.slice(2);
const files = [
  "vendor/jax.js", "random.js", "problems.js", "networks.js", "training.js", "teaching.js", "worker.js",
  "cartpole.js",
];
const script = files.map((file) => fs.readFileSync(`${folder}/${file}`, "utf8")).join("\n");

const answer = `
(async (asked) => {
  const list = (a) => Array.from(a.dataSync());
  const given = ({ numbers, shape }) => array(Float32Array.from(numbers), ...shape);
  for (const name of Object.keys(asked.data)) {
    if (/Images|Labels/.test(name)) asked.data[name] = new Uint8Array(Buffer.from(asked.data[name], "base64"));
  }
  await TASKS.start(asked.data);
  const answers = {};

  const { x, lr, y, params, realX, realY } = asked.meta;
  const [loss, g] = metaGradient(
    given(x), given(lr), given(y), params.map(given), given(realX), given(realY));
  answers.meta = { loss: list(loss)[0], x: list(g.x), lr: list(g.lr) };

  for (const network of ["conv", "dense"]) {
    pupil = new Pupil({ network, source: "curriculum", order: "kept", factor: 1, seed: 1 });
    const before = pupil.weights.map((w) => list(w.ref));
    for (let t = 0; t < asked.steps[network]; t++) pupil.step();
    answers[network] = { before, after: pupil.weights.map((w) => list(w.ref)) };
  }

  answers.policy = TASKS.policy({ seed: 2 }).map((weights) => weights.map((w) => Array.from(w)));

  let state = asked.start;
  answers.states = asked.actions.map((action) => (state = cartpoleStep(state, action)));
  answers.chosen = answers.states.map((s) => policyAction(answers.policy[10], s));
  return answers;
})`;

vm.runInThisContext(script + answer)(JSON.parse(fs.readFileSync(0, "utf8"))).then(
  (answers) => process.stdout.write(JSON.stringify(answers)));
