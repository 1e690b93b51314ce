// The connection to the server: one event stream, reopened when it ends, and none while the page is hidden, because a
// browser has six connections to a host for all its tabs.

const AGAIN_MS_MAX = 8000;

/** Calls `onEvent(name, data)` for each event, and `onState(state)` with "connecting", "live", "lost" or "shut". */
export class Stream {
  #source = null;
  #path = null;
  #after = ""; // the number of the newest event
  #timer = 0;
  #wait_ms = 1000;

  constructor(onEvent, onState) {
    this.onEvent = onEvent;
    this.onState = onState;
    document.addEventListener("visibilitychange", () => this.#connect());
  }

  /** Open the stream at `path`, and close any other. */
  open(path) {
    [this.#path, this.#after] = [path, ""];
    this.#connect();
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
    if (document.hidden) return;
    const source = (this.#source = new EventSource(this.#after ? `${this.#path}?after=${this.#after}` : this.#path));
    source.onopen = () => {
      this.#wait_ms = 1000;
      this.onState("live");
    };
    source.onerror = () => this.#lost(source);
    for (const name of ["runs", "absent", "full", "patch"]) {
      source.addEventListener(name, (event) => {
        this.#after = event.lastEventId || this.#after;
        this.onEvent(name, JSON.parse(event.data));
      });
    }
  }

  async #lost(source) {
    if (source !== this.#source) return;
    const closed = source.readyState === EventSource.CLOSED; // else the browser retries by itself
    const state = closed && (await shut()) ? "shut" : "lost";
    if (source !== this.#source) return;
    this.onState(state);
    if (!closed) return;
    this.#timer = setTimeout(() => this.#connect(), this.#wait_ms);
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
