// The picture of the run that is shown, kept up to date from what the server sends. Bounded as the server's own is.
// Knows nothing of the page.

const ROUNDS_MAX = 10240;
const WORKS_MAX = 1024;
const BESTS_MAX = 2048;
const FEED_MAX = 256; // of rounds that were closed, and of everything else

/** Everything known of one run; `now()` is the server's clock, which stands while nothing is heard. */
export class Picture {
  head = null;
  rounds = {}; // columns, in order of the round
  trainers = new Map(); // name → row, in the order in which they were met
  works = []; // rows, the newest last
  bests = []; // numbers of rounds
  feed = []; // rows, the newest last
  edition = 0; // goes up whenever something is said of rounds
  #ahead = 0;
  #halted = null; // since when nothing is heard

  now = () => (this.#halted ?? Date.now() / 1000) + this.#ahead;

  clock(now) {
    if (now !== undefined) this.#ahead = now - Date.now() / 1000;
  }

  /** Nothing is heard of the run any more, until something is. */
  halt() {
    this.#halted ??= Date.now() / 1000;
  }

  isHeard = () => this.#halted === null;

  /** Whether the run goes on, as far as was heard. */
  goesOn = () => this.head !== null && this.head.finished === null && this.head.connected;

  /** Of when what is said of its trainers is, in words; "": of now. */
  past() {
    if (this.head?.finished) return "at the end";
    return this.goesOn() && this.isHeard() ? "" : "last known";
  }

  /** Take a whole picture in place of all there is. */
  replace(all) {
    this.#halted = null;
    this.head = all.head;
    this.rounds = all.rounds;
    this.trainers = new Map(rows(all.trainers).map((row) => [row.name, row]));
    this.works = rows(all.works);
    this.bests = all.bests.round ?? [];
    this.feed = rows(all.feed);
    this.edition += 1;
    this.clock(all.now);
  }

  /** Merge what has changed; returns the names of what did. */
  merge(patch) {
    if (this.head === null) return []; // a `full` comes first
    this.#halted = null;
    this.clock(patch.now);
    if (patch.head) Object.assign(this.head, patch.head);
    if (patch.rounds) this.#mergeRounds(patch.rounds);
    for (const row of rows(patch.trainers)) this.trainers.set(row.name, row);
    this.works = bounded(this.works, rows(patch.works), WORKS_MAX);
    this.bests = bounded(this.bests, patch.bests?.round ?? [], BESTS_MAX);
    this.feed = boundedFeed(this.feed, rows(patch.feed));
    return Object.keys(patch);
  }

  #mergeRounds(columns) {
    this.edition += 1;
    const names = Object.keys(columns);
    for (let from = 0; from < (columns.round?.length ?? 0); from += 1) {
      const to = this.place(columns.round[from]);
      if (to < 0) continue;
      for (const name of names) (this.rounds[name] ??= [])[to] = columns[name][from];
    }
    if (this.length() < ROUNDS_MAX) return;
    for (const name of Object.keys(this.rounds)) {
      this.rounds[name] = this.rounds[name].filter((_, at) => at >= ROUNDS_MAX / 2 || at % 2 === 0);
    }
  }

  /** The row of this round, or the one where it goes; -1 for an old one that was thinned out. */
  place(round) {
    const known = this.rounds.round ?? [];
    let at = known.length;
    while (at > 0 && known[at - 1] >= round) at -= 1; // the newest ones are asked for most
    return at === known.length || known[at] === round ? at : -1;
  }

  /** How many rows of rounds there are. */
  length() {
    return this.rounds.round?.length ?? 0;
  }

  /** The row of the newest closed round, or -1. */
  newestClosed() {
    let at = this.length() - 1;
    while (at >= 0 && this.rounds.closed_at[at] === null) at -= 1;
    return at;
  }
}

/** An array of objects from an object of arrays. */
function rows(columns) {
  if (!columns) return [];
  const names = Object.keys(columns);
  const length = names.length ? columns[names[0]].length : 0;
  return Array.from({ length }, (_, at) => Object.fromEntries(names.map((name) => [name, columns[name][at]])));
}

function bounded(old, more, most) {
  if (!more.length) return old;
  old.push(...more);
  return old.length > 2 * most ? old.slice(-most) : old;
}

/** Quick rounds must not drive everything else out. */
function boundedFeed(old, more) {
  old.push(...more);
  if (old.length <= 4 * FEED_MAX) return old;
  const [closes, others] = [[], []];
  for (const one of old) (one.kind === "round-closed" ? closes : others).push(one);
  return [...closes.slice(-FEED_MAX), ...others.slice(-FEED_MAX)].sort((a, b) => a.seq - b.seq);
}
