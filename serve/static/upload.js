// With JavaScript a file's scores are summed up on the page; without it the file comes back alone.
"use strict";

const batch = document.getElementById("batch");
const upload = document.getElementById("upload");
const batchStatus = document.getElementById("batch-status");
const summary = document.getElementById("batch-result");
const SHOWN = 10; // rows in a table
const ERRORS = 5;

// The rows of a CSV file that the server wrote, as lists of cells.
function rowsOf(text) {
  const rows = [];
  let row = [];
  for (const [all, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^,\n]*))(,|\n|$)/g)) {
    if (all === "") break;
    row.push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === ",") continue;
    rows.push(row);
    row = [];
  }
  return rows;
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function table(caption, coins) {
  const made = document.createElement("table");
  made.append(element("caption", caption));
  for (const { name, liquidity, level, inRange } of coins) {
    const line = made.insertRow();
    const head = element("th", name);
    head.scope = "row";
    line.append(head, element("td", liquidity.toPrecision(4)));
    line.append(element("td", inRange ? level : `${level}, out of range`));
  }
  return made;
}

function sumUp(text) {
  const [header, ...rows] = rowsOf(text);
  const at = (name) => header.lastIndexOf(name); // an own column of that name has another one now
  const named = header.findIndex((name) => /^(coin|name|symbol|id)$/i.test(name.trim()));
  const name = (row, index) => (named < 0 ? "" : row[named]) || `row ${index + 1}`;
  const coins = rows.flatMap((row, index) =>
    row[at("error")]
      ? []
      : {
          name: name(row, index),
          liquidity: Number(row[at("liquidity")]),
          level: row[at("level")],
          inRange: row[at("in_range")] === "true",
        },
  );
  const errors = rows.flatMap((row, index) =>
    row[at("error")] ? `${name(row, index)} (row ${index + 1}): ${row[at("error")]}` : [],
  );
  coins.sort((one, other) => other.liquidity - one.liquidity);
  const high = coins.filter((each) => each.level === "High").length;
  const outside = coins.filter((each) => !each.inRange).length;
  summary.append(element("p", `${high} High, ${outside} out of the range that the model has seen.`));
  if (errors.length) {
    const list = document.createElement("ul");
    list.append(...errors.slice(0, ERRORS).map((each) => element("li", each)));
    summary.append(element("p", errors.length > ERRORS ? "The first errors:" : "Errors:"), list);
  }
  if (coins.length) summary.append(table("Highest by the column liquidity", coins.slice(0, SHOWN)));
  if (coins.length > SHOWN) {
    summary.append(table("Lowest by the column liquidity", coins.slice(-SHOWN).reverse()));
  }
}

async function scoreFile() {
  summary.replaceChildren();
  const response = await post(batch, new FormData(batch), (long) => {
    batchStatus.textContent = long ? "Scoring…" : "";
  });
  if (!response) return;
  if (!response.ok) {
    batchStatus.textContent = (await parsed(response)).getElementById("message").textContent;
    return;
  }
  const file = await response.blob();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = "scored.csv";
  link.textContent = "Save scored.csv";
  const wrong = response.headers.get("X-Rows-Refused");
  batchStatus.append(
    `${response.headers.get("X-Rows")} rows` +
      (wrong === "0" ? " scored. " : `, ${wrong} of them marked in the column error. `),
    link,
  );
  sumUp(await file.text());
}

batch.addEventListener("submit", (event) => {
  event.preventDefault();
  scoreFile();
});

// A file may be dropped anywhere on the page.
const hasFile = (event) => event.dataTransfer.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!hasFile(event)) return;
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  if (!hasFile(event)) return;
  event.preventDefault();
  document.body.classList.remove("dragging");
  upload.files = event.dataTransfer.files;
  batch.requestSubmit();
});
