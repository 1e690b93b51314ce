// The state of the shown run, updated by the events of the server. It has the bounds of the server's own state.

const ROUNDS_MAX = 10240;
const WORKS_MAX = 1024;
const BESTS_MAX = 2048;
const FEED_MAX = 256; // of closed rounds, and of all other events

/** The state of one run; `now()` is the clock of the server, which stops while no events arrive. */
export class PageModel {
  head = null;
  rounds = {}; // columns, in order of the round
  trainers = new Map(); // name → row, in the order of their first appearance
  works = []; // rows, the newest last
  bests = []; // numbers of rounds
  feed = []; // rows, the newest last
  edition = 0; // number of changes of rounds
  #ahead = 0;
  #stoppedAt = null; // since when no events arrive

  now = () => (this.#stoppedAt ?? Date.now() / 1000) + this.#ahead;

  clock(now) {
    if (now !== undefined) this.#ahead = now - Date.now() / 1000;
  }

  /** Stop the clock until the next event. */
  stopClock() {
    this.#stoppedAt ??= Date.now() / 1000;
  }

  isCurrent = () => this.#stoppedAt === null;

  /** Whether the run is live, by the last event. */
  isLive = () => this.head !== null && this.head.finished === null && this.head.connected;

  /** The time of the shown state as text; "" for now. */
  asOf() {
    if (this.head?.finished) return "at the end";
    return this.isLive() && this.isCurrent() ? "" : "last known";
  }

  /** Replace the whole state. */
  replace(all) {
    this.#stoppedAt = null;
    this.head = all.head;
    this.rounds = all.rounds;
    this.trainers = new Map(rows(all.trainers).map((row) => [row.name, row]));
    this.works = rows(all.works);
    this.bests = all.bests.round ?? [];
    this.feed = rows(all.feed);
    this.edition += 1;
    this.clock(all.now);
  }

  /** Merge changes; returns the names of the changed parts. */
  merge(patch) {
    if (this.head === null) return []; // a `full` comes first
    this.#stoppedAt = null;
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

  /** The row of this round, or the row to insert it at; -1 for an old round that was dropped. */
  place(round) {
    const known = this.rounds.round ?? [];
    let at = known.length;
    while (at > 0 && known[at - 1] >= round) at -= 1; // the newest are requested most often
    return at === known.length || known[at] === round ? at : -1;
  }

  /** The number of rounds. */
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

/** Quick rounds must not displace other events. */
function boundedFeed(old, more) {
  old.push(...more);
  if (old.length <= 4 * FEED_MAX) return old;
  const [closes, others] = [[], []];
  for (const one of old) (one.kind === "round-closed" ? closes : others).push(one);
  return [...closes.slice(-FEED_MAX), ...others.slice(-FEED_MAX)].sort((a, b) => a.seq - b.seq);
}
