// With JavaScript the result appears in place; every form and link works without it.
"use strict";

const coin = document.getElementById("coin");
const result = document.getElementById("result");
const fields = [...coin.querySelectorAll("input")];
const fill = coin.querySelector("[name=fill]");
const WAIT = 300; // ms after which a wait is said

const parsed = async (response) =>
  new DOMParser().parseFromString(await response.text(), "text/html");

function say(text) {
  let message = document.getElementById("message");
  if (!message) {
    message = document.createElement("p");
    message.id = "message";
    message.className = "alert";
    message.setAttribute("role", "alert");
    coin.before(message);
  }
  message.textContent = text;
}

// Beside each field that takes a fraction; what else a field was read as, the server says.
function showReading(input) {
  const output = input.parentElement.querySelector("output");
  if (!output) return;
  const value = input.value.trim() === "" ? NaN : Number(input.value);
  const shown = "percent" in output.dataset && Number.isFinite(value);
  output.textContent = shown ? `${+(100 * value).toFixed(4)} %` : "";
}

function mark(input, wrong) {
  document.getElementById(`${input.name}-error`)?.remove();
  input.removeAttribute("aria-invalid");
  input.setAttribute("aria-describedby", `${input.name}-hint`);
  if (!wrong) return;
  const note = document.createElement("p");
  note.id = `${input.name}-error`;
  note.className = "wrong";
  note.textContent = wrong;
  input.closest(".field").append(note);
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-describedby", `${input.name}-hint ${note.id}`);
}

// Posts one form at a time; null where the server does not answer. `waiting(true)` is called if
// that takes long. A disabled button would lose the focus.
const busy = new Set();
async function post(form, body, waiting) {
  if (busy.has(form)) return null;
  busy.add(form);
  form.setAttribute("aria-busy", "true");
  const timer = setTimeout(waiting, WAIT, true);
  try {
    return await fetch(form.action, { method: "POST", body, headers: { Accept: "text/html" } });
  } catch {
    say("The server does not answer. What you typed is still here: try again in a moment.");
    return null;
  } finally {
    clearTimeout(timer);
    waiting(false);
    form.removeAttribute("aria-busy");
    busy.delete(form);
  }
}

// The result that is shown is of other values than those in the fields.
function age(old) {
  result.classList.toggle("stale", old && Boolean(result.querySelector(".verdict")));
}

function progress(text, unseen = false) {
  const line = document.getElementById("progress");
  line.textContent = text;
  line.classList.toggle("unseen", unseen);
}

async function score(submitter) {
  const body = new URLSearchParams(new FormData(coin));
  if (submitter?.name) body.append(submitter.name, submitter.value);
  const response = await post(coin, body, (long) => {
    progress(long ? "Scoring…" : "");
    if (long) age(true);
  });
  if (!response) return age(true);
  const page = await parsed(response);
  const message = page.getElementById("message");
  document.getElementById("message")?.remove();
  if (message) say(message.textContent);
  if (!page.getElementById("coin")) return age(true);
  for (const input of fields) {
    const sent = page.getElementById(input.id);
    const wrong = page.getElementById(`${input.id}-error`);
    input.value = sent.value;
    mark(input, wrong && wrong.textContent);
    showReading(input);
    const reading = sent.parentElement.querySelector("output")?.textContent;
    if (reading) input.parentElement.querySelector("output").textContent = reading;
  }
  document.getElementById("note").textContent = page.getElementById("note").textContent;
  if (!page.querySelector(".verdict")) {
    age(true);
    coin.querySelector("[aria-invalid]")?.focus();
    return;
  }
  age(false);
  result.replaceChildren(...page.getElementById("result").childNodes);
  document.querySelector("footer").replaceChildren(...page.querySelector("footer").childNodes);
  offerCurves();
  const said = [".score", ".level"].map((part) => result.querySelector(part).textContent.trim());
  progress(said.join(", "), true);
  history.pushState(null, "", document.getElementById("address").href);
  const { top } = result.getBoundingClientRect();
  if (top < 0 || top > window.innerHeight / 2) result.scrollIntoView();
}

coin.addEventListener("submit", (event) => {
  event.preventDefault();
  score(event.submitter);
});
coin.addEventListener("input", (event) => showReading(event.target));
// The address holds all that was shown.
window.addEventListener("popstate", () => window.location.reload());

// A row that is pasted into the box, or by mistake into a field, fills all of them.
coin.addEventListener("paste", (event) => {
  const text = event.clipboardData.getData("text");
  const row = document.getElementById("row");
  if (event.target !== row && !/[\t\n]/.test(text.trim())) return;
  event.preventDefault();
  row.value = text;
  coin.requestSubmit(fill);
});

document.querySelector(".chips").addEventListener("click", (event) => {
  const chip = event.target.closest("a");
  if (!chip || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  new URL(chip.href).searchParams.forEach((value, name) => {
    coin.elements.namedItem(name).value = value;
  });
  score();
});

// The curves say their values under the pointer, and by the arrow keys.
function offerCurves() {
  for (const svg of result.querySelectorAll(".curve")) {
    svg.setAttribute("tabindex", "0");
    const readings = svg.dataset.readings.split("|");
    const axis = svg.querySelector(".threshold");
    const [from, to] = [axis.x1.baseVal.value, axis.x2.baseVal.value];
    const cursor = axis.cloneNode();
    cursor.setAttribute("class", "cursor");
    const home = Number(svg.dataset.at);
    let at = home;
    const show = (index) => {
      at = Math.max(0, Math.min(readings.length - 1, index));
      svg.parentElement.querySelector(".reading").textContent = readings[at];
      const x = from + ((to - from) * at) / (readings.length - 1);
      for (const [name, value] of Object.entries({ x1: x, x2: x, y1: 8, y2: 124 })) {
        cursor.setAttribute(name, value);
      }
      if (at === home) cursor.remove();
      else svg.append(cursor);
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) * svg.viewBox.baseVal.width) / box.width;
      show(Math.round(((x - from) / (to - from)) * (readings.length - 1)));
    });
    svg.addEventListener("pointerleave", () => show(home));
    svg.addEventListener("blur", () => show(home));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      show(at + step);
    });
  }
}
offerCurves();
fields.filter((input) => input.value && !result.querySelector(".verdict")).forEach(showReading);
