// The controls of a run, for whom the server lets use them; what cannot be taken back is asked about first.

import { $, make, say } from "./paint.js";

const TOAST_MS = 6000;
const ACTIONS = {
  pause: { name: "Pause", if: (head) => !head.paused },
  resume: { name: "Resume", if: (head) => head.paused },
  checkpoint: { name: "Checkpoint now", if: () => true },
  stop: { name: "Stop the run", if: () => true, sure: () => "It ends after the open round, and keeps the best model so far." },
  drain: { name: "Drain", sure: (name) => `${name} finishes what it has, and gets no more rounds until it is readmitted or the aggregator is started again.` },
  ban: { name: "Ban", sure: (name) => `What ${name} sends is refused from now on, until it is readmitted or the aggregator is started again.` },
  readmit: { name: "Readmit" },
};

/** `session()` is what the server said at the beginning. Returns { able(picture), act(action, trainer), draw(picture) }. */
export function makeControls(session) {
  let picture = null;
  let hiding = 0;
  const buttons = new Map();
  for (const [action, { name, if: there }] of Object.entries(ACTIONS)) {
    if (!there) continue;
    const button = make("button", { type: "button", class: "quiet", text: name });
    button.addEventListener("click", () => act(action));
    buttons.set(action, button);
    $("controls").append(button);
  }

  function toast(text) {
    clearTimeout(hiding);
    $("toast").hidden = false;
    say($("toast"), text);
    hiding = setTimeout(() => ($("toast").hidden = true), TOAST_MS);
  }

  async function act(action, trainer) {
    const run = picture.head.run;
    const { name, sure } = ACTIONS[action];
    if (sure && !(await agreed(trainer ? `${name} ${trainer}?` : `${name}?`, sure(trainer), name))) return;
    const busy = buttons.get(action);
    if (busy) busy.disabled = true;
    try {
      const answer = await fetch(`/api/runs/${run}/control`, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-CSRF-Token": session().csrf },
        body: JSON.stringify(trainer ? { action, trainer } : { action }),
      });
      const result = await answer.json();
      toast(result.done ?? result.error);
    } catch {
      toast("The dashboard did not answer. Is it still running?");
    } finally {
      if (busy) busy.disabled = false;
    }
  }

  const able = (of) => Boolean(session()?.control) && of.goesOn();

  function draw(next) {
    picture = next;
    $("controls").hidden = !able(picture);
    if (!able(picture)) return;
    for (const [action, button] of buttons) button.hidden = !ACTIONS[action].if(picture.head);
  }

  return { able, act, draw };
}

function agreed(title, text, name) {
  const dialog = $("sure");
  say($("sure-title"), title);
  say($("sure-text"), text);
  say($("sure-yes"), name);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
