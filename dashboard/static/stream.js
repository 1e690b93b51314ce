// The connection to the server: one event stream at a time, opened again whenever it ends. Knows nothing of what comes.

const AGAIN_MS_MAX = 8000;

/** `hear(name, data)` is called for each event, `tell(state)` with "connecting", "live", "lost" or "shut". */
export class Stream {
  #source = null;
  #timer = 0;
  #wait_ms = 1000;

  constructor(hear, tell) {
    this.hear = hear;
    this.tell = tell;
  }

  /** Listen at `path` and nowhere else. */
  open(path) {
    clearTimeout(this.#timer);
    this.#source?.close();
    const source = (this.#source = new EventSource(path));
    source.onopen = () => {
      this.#wait_ms = 1000;
      this.tell("live");
    };
    source.onerror = () => this.#lost(source, path);
    for (const name of ["runs", "absent", "full", "patch"]) {
      source.addEventListener(name, (event) => this.hear(name, JSON.parse(event.data)));
    }
  }

  #lost(source, path) {
    if (source !== this.#source) return;
    this.tell("lost");
    if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    this.#timer = setTimeout(async () => {
      if (source !== this.#source) return;
      if (await shut()) this.tell("shut");
      this.open(path);
    }, this.#wait_ms);
    this.#wait_ms = Math.min(2 * this.#wait_ms, AGAIN_MS_MAX);
  }
}

async function shut() {
  try {
    return (await fetch("/api/session")).status === 401;
  } catch {
    return false;
  }
}
