// A button that copies each command. Without JavaScript there is none, and the text can be selected.
"use strict";

async function copy(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return "Copied";
  } catch {
    // Over plain HTTP a browser lets no page write there: then it is a key press.
    window.getSelection().selectAllChildren(code);
    return "Selected: Ctrl+C";
  }
}

for (const figure of document.querySelectorAll("figure")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", async () => {
    button.textContent = await copy(figure.querySelector("code"));
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  figure.append(button);
}
