"use strict";
(() => {
  const gallery = document.getElementById("gallery");
  const rows = document.getElementById("rows");
  const byText = new Intl.Collator(undefined, { numeric: true }).compare;

  function sort(parent, key, down) {
    const items = Array.from(parent.children);
    const value = (item) => (key === "name" ? item.dataset.name : Number(item.dataset[key]));
    items.sort((a, b) => {
      const order = key === "name" ? byText(value(a), value(b)) : value(a) - value(b);
      return (down ? -order : order) || a.dataset.place - b.dataset.place;
    });
    parent.append(...items);
  }

  // Names go up first, numbers down first; the same button again turns the order.
  function wire(buttons, parent) {
    buttons.forEach((button) => button.addEventListener("click", () => {
      const key = button.dataset.key;
      const first = key === "name" || key === "place" ? "up" : "down";
      const way = button.dataset.way ? (button.dataset.way === "up" ? "down" : "up") : first;
      buttons.forEach((other) => { delete other.dataset.way; other.setAttribute("aria-pressed", "false"); });
      button.dataset.way = way;
      button.setAttribute("aria-pressed", "true");
      sort(parent, key, way === "down");
    }));
  }
  wire(document.querySelectorAll(".sort button"), gallery);
  wire(document.querySelectorAll(".all thead button"), rows);

  document.getElementById("find").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    for (const item of [...gallery.children, ...rows.children]) item.hidden = !item.dataset.find.includes(wanted);
  });

  const large = document.getElementById("large");
  const image = large.querySelector("img");
  const caption = large.querySelector("figcaption");
  let shown = null;

  function show(card) {
    if (!card) return;
    shown = card;
    const link = card.querySelector(".shot");
    const small = link.querySelector("img");
    image.src = link.getAttribute("href") === "#" ? small.src : link.href;
    image.alt = small.alt;
    caption.textContent = `${card.dataset.name} · ${card.dataset.objects} objects`;
    if (!large.open) large.showModal();
  }
  function next(step) {
    const cards = Array.from(gallery.children).filter((card) => !card.hidden);
    show(cards[cards.indexOf(shown) + step]);
  }
  gallery.addEventListener("click", (event) => {
    const link = event.target.closest(".shot");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    show(link.closest("li"));
  });
  image.addEventListener("error", () => { if (shown) image.src = shown.querySelector(".shot img").src; });
  large.addEventListener("click", (event) => { if (event.target !== image) large.close(); });
  large.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") next(1);
    if (event.key === "ArrowLeft") next(-1);
  });
})();
