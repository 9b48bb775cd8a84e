// What all tabs share: the worker, the data, the status line.

const byId = (id) => document.getElementById(id);

/** "92.3 %" */
const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** A seed that no earlier network had. */
const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

/** Lets the browser draw, and answer to the visitor, before what follows. */
const nextFrame = () => new Promise((resolve) => { setTimeout(resolve, 16); });

function say(text) {
  byId("status").textContent = text;
}

/** The worker, as a function that asks it: ask(task, options) -> promise of the result. */
class Worked {
  constructor() {
    const source = new Blob([byId("worker").textContent], { type: "text/javascript" });
    this.waiting = new Map();
    this.count = 0;
    this.worker = new Worker(URL.createObjectURL(source));
    this.worker.onmessage = ({ data: { id, result, error } }) => {
      const [resolve, reject] = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    };
    this.worker.onerror = (event) => say(`The worker failed: ${event.message}`);
  }

  ask(task, options = {}) {
    this.count += 1;
    const id = this.count;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, [resolve, reject]);
      this.worker.postMessage({ id, task, options });
    });
  }
}

/** The page's data, with bytes where base64 was. */
function readData() {
  const data = JSON.parse(byId("data").textContent);
  for (const name of Object.keys(data).filter((key) => /Images|Labels/.test(key))) {
    data[name] = Uint8Array.from(atob(data[name]), (letter) => letter.charCodeAt(0));
  }
  return data;
}

/** Runs jobs one after the other: a click during a step waits for the step. */
class Queue {
  constructor() {
    this.last = Promise.resolve();
  }

  add(job) {
    this.last = this.last.then(job).catch((error) => say(error.message));
    return this.last;
  }
}

/** A button that plays and pauses: `step` is done again and again, and stops by itself where it returns
 * false. */
class Player {
  constructor(button, queue, step) {
    this.button = button;
    this.queue = queue;
    this.step = step;
    this.playing = false;
    button.addEventListener("click", () => (this.playing ? this.pause() : this.play()));
  }

  async play() {
    if (this.playing) return;
    this.playing = true;
    this.button.textContent = "Pause";
    while (this.playing) {
      let going = false;
      await this.queue.add(async () => {
        going = this.playing && (await this.step());
      });
      if (!going) this.pause();
      await nextFrame();
    }
  }

  pause() {
    this.playing = false;
    this.button.textContent = "Play";
  }
}
