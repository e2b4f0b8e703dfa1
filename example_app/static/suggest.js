// Suggestions while typing. Without it every search form still works.
"use strict";

for (const input of document.querySelectorAll("input[data-suggest]")) {
  const list = document.createElement("ul");
  list.className = "suggestions";
  list.hidden = true;
  input.insertAdjacentElement("afterend", list);
  let timer = 0;
  let asked = 0;

  const show = (found) => {
    list.replaceChildren(
      ...found.map(({ word, language, url }) => {
        const item = document.createElement("li");
        const link = document.createElement("a");
        const name = document.createElement("span");
        link.href = url;
        link.textContent = word;
        name.textContent = language;
        link.append(name);
        item.append(link);
        return item;
      }),
    );
    list.hidden = found.length === 0;
  };

  const ask = async () => {
    const number = ++asked;
    const query = input.value.trim();
    if (!query) return show([]);
    try {
      const answer = await fetch(`${input.dataset.suggest}?q=${encodeURIComponent(query)}`);
      const found = answer.ok ? await answer.json() : [];
      if (number === asked) show(found);
    } catch {
      show([]);
    }
  };

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(ask, 150);
  });
  input.form.addEventListener("keydown", (event) => {
    const links = [...list.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    if (event.key === "Escape") {
      show([]);
      input.focus();
    } else if (event.key === "ArrowDown" && links.length) {
      event.preventDefault();
      links[Math.min(at + 1, links.length - 1)].focus();
    } else if (event.key === "ArrowUp" && at >= 0) {
      event.preventDefault();
      (links[at - 1] || input).focus();
    }
  });
  document.addEventListener("click", (event) => {
    if (!input.form.contains(event.target)) show([]);
  });
}
