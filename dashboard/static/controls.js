// The controls of a run, if the server allows them; actions that cannot be undone need a confirmation.

import { $, make, setText } from "./paint.js";

const TOAST_MS = 6000;
const ACTIONS = {
  pause: { name: "Pause", if: (head) => !head.paused },
  resume: { name: "Resume", if: (head) => head.paused },
  checkpoint: { name: "Checkpoint now", if: () => true },
  stop: { name: "Stop the run", if: () => true, sure: () => "The run ends after the open round, and keeps the best model." },
  drain: { name: "Drain", sure: (name) => `${name} finishes its round, and gets no more rounds until it is readmitted or the aggregator restarts.` },
  ban: { name: "Ban", sure: (name) => `Messages of ${name} are rejected until it is readmitted or the aggregator restarts.` },
  readmit: { name: "Readmit" },
};

/** `session()` is the answer of /api/session. Returns { able(model), act(action, trainer), draw(model) }. */
export function makeControls(session) {
  let model = null;
  let hiding = 0;
  const buttons = new Map();
  for (const [action, { name, if: allowed }] of Object.entries(ACTIONS)) {
    if (!allowed) continue;
    const button = make("button", { type: "button", class: "quiet", text: name });
    button.addEventListener("click", () => act(action));
    buttons.set(action, button);
    $("controls").append(button);
  }

  function toast(text) {
    clearTimeout(hiding);
    $("toast").hidden = false;
    setText($("toast"), text);
    hiding = setTimeout(() => ($("toast").hidden = true), TOAST_MS);
  }

  async function act(action, trainer) {
    const run = model.head.run;
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

  const able = (of) => Boolean(session()?.control) && of.isLive();

  function draw(next) {
    model = next;
    $("controls").hidden = !able(model);
    if (!able(model)) return;
    for (const [action, button] of buttons) button.hidden = !ACTIONS[action].if(model.head);
  }

  return { able, act, draw };
}

function agreed(title, text, name) {
  const dialog = $("sure");
  setText($("sure-title"), title);
  setText($("sure-text"), text);
  setText($("sure-yes"), name);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
