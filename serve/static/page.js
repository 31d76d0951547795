// With JavaScript the result appears in place; every form and link works without it.
"use strict";

const coin = document.getElementById("coin");
const percents = [...coin.querySelectorAll("output")];

// Beside each field that takes a fraction.
function showPercents() {
  for (const percent of percents) {
    const text = document.getElementById(percent.htmlFor.value).value.trim();
    const value = text === "" ? NaN : Number(text);
    percent.textContent = Number.isFinite(value) ? `${+(100 * value).toFixed(4)} %` : "";
  }
}

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

// Whether it is a number at all is said before the server is asked; the rules are the model's.
function check(input) {
  const text = input.value.trim();
  if (text === "") return "expected a number, got nothing";
  return Number.isFinite(Number(text)) ? null : `expected a number, got '${text}'`;
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

async function post(form, body) {
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    return await fetch(form.action, { method: "POST", body, headers: { Accept: "text/html" } });
  } catch {
    say("The server does not answer. What you typed is still here: try again in a moment.");
    return null;
  } finally {
    button.disabled = false;
  }
}

function focusOnWrong() {
  const first = coin.querySelector("[aria-invalid]");
  first?.focus();
  return Boolean(first);
}

async function score() {
  const inputs = [...coin.querySelectorAll("input")];
  inputs.forEach((input) => mark(input, check(input)));
  const result = document.getElementById("result");
  result.classList.add("stale");
  if (focusOnWrong()) return;
  const response = await post(coin, new URLSearchParams(new FormData(coin)));
  if (!response) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const message = page.getElementById("message");
  document.getElementById("message")?.remove();
  if (message) say(message.textContent);
  for (const input of inputs) {
    const wrong = page.getElementById(`${input.name}-error`);
    mark(input, wrong && wrong.textContent);
  }
  if (focusOnWrong()) return;
  result.classList.remove("stale");
  result.replaceChildren(...page.getElementById("result").childNodes);
  document.querySelector("footer").replaceChildren(...page.querySelector("footer").childNodes);
  if (window.matchMedia("(max-width: 46rem)").matches) result.scrollIntoView();
}

coin.addEventListener("submit", (event) => {
  event.preventDefault();
  score();
});
coin.addEventListener("input", showPercents);
showPercents();

document.querySelector(".chips")?.addEventListener("click", (event) => {
  const chip = event.target.closest("a");
  if (!chip || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  new URL(chip.href).searchParams.forEach((value, name) => {
    coin.elements.namedItem(name).value = value;
  });
  showPercents();
  score();
});

const batch = document.getElementById("batch");
batch.addEventListener("submit", async (event) => {
  event.preventDefault();
  const status = document.getElementById("batch-status");
  status.textContent = "Scoring…";
  const response = await post(batch, new FormData(batch));
  status.textContent = "";
  if (!response) return;
  if (!response.ok) {
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    status.textContent = page.getElementById("message").textContent;
    return;
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = "scored.csv";
  link.textContent = "Save scored.csv";
  const wrong = response.headers.get("X-Rows-Refused");
  status.append(
    `${response.headers.get("X-Rows")} rows` +
      (wrong === "0" ? " scored. " : `, ${wrong} of them marked in the column error. `),
    link,
  );
});
