/** Everything that a key or a button does, in one list: the keys, the `?` page and the tool tips read it. */
import { act, attempt, current, helpOpen, image, isProposal, objects, order, outlines, project, proposals, radius, redo, save, say, selected, selection, settled, shown, singleOwn, takeJob, threshold, undo, open, category } from "./store";
import { api } from "./api";
import { texts } from "./texts";
import { pick, putDown, tool } from "./tools/current";
import { Prompter } from "./tools/prompter";
import type { ToolName } from "./tools/tool";
import { camera, center, fit, reveal, stageSize, zoom } from "./view/camera";
import { hidePointer, pointed, pointer, pointerPlace, togglePointer } from "./view/pointer";

export type Name = keyof typeof texts.commands;
export interface Command { name: Name; keys: string[]; group: keyof typeof texts.groups; run: () => void }

const own = () => selection.value.filter((o) => !isProposal(o.id)).map((o) => o.id);
const proposed = () => selection.value.filter((o) => isProposal(o.id)).map((o) => o.id);

function withOwn(kind: "remove" | "merge" | "fill_holes", least = 1): void {
  const ids = own();
  if (ids.length >= least) void act({ kind, ids });
}

function judge(kind: "accept" | "reject"): void {
  const ids = proposed();
  const after = proposals.value.find((p) => !ids.includes(p.id));
  if (!ids.length) return;
  void act({ kind, ids }).then(() => { if (after) show(after.id); });
}

export function show(id: number): void {
  const object = [...objects.value, ...proposals.value].find((o) => o.id === id);
  if (!object) return;
  selected.value = new Set([id]);
  reveal(object.box);
}

export function acceptAll(): void {
  if (proposals.value.length) void act({ kind: "accept_above", score: threshold.value });
}

export function remove(): void {
  withOwn("remove");
  judge("reject");
}

/** Selects the objects that lie on others, or the proposals that lie on none. */
export async function check(what: "doubled" | "missed"): Promise<void> {
  const now = image.value;
  const found = now && (await attempt(() => api.check(now.index)));
  if (!found || image.value?.index !== now.index) return;
  const seen = what === "doubled" ? objects.value : proposals.value;
  const ids = seen.map((o) => o.id).filter((id) => found[what].includes(id));
  selected.value = new Set(ids);
  say(texts[what](ids.length));
}

/** The image, besides this one, whose least sure proposal is nearest to one half. */
export async function nextDoubtful(): Promise<void> {
  order.value = "doubt";
  const rows = await attempt(() => api.images(0, 2, "doubt"));
  const next = rows?.images.find((row) => row.index !== current.value && row.doubt !== null);
  if (next) await goTo(next.index);
  else if (rows) say(texts.nothingDoubtful);
}

export async function goTo(index: number): Promise<void> {
  await putDown();
  await settled();
  await open(index);
}

export function go(step: number): void {
  void goTo(current.value + step);
}

async function copyToNext(): Promise<void> {
  const from = image.value?.index;
  if (from === undefined || from + 1 >= (project.value?.count ?? 0)) return;
  await goTo(from + 1);
  await act({ kind: "copy_from", image: from });
}

function review(): void {
  void act({ kind: "review", reviewed: true }).then((done) => { if (done) go(1); });
}

function nextObject(): void {
  const all = [...objects.value, ...proposals.value];
  const at = all.findIndex((o) => selected.value.has(o.id));
  if (all.length) show(all[(at + 1) % all.length].id);
}

function escape(): void {
  if (helpOpen.value) helpOpen.value = false;
  else if (tool.value.cancel?.()) return;
  else if (pointer.value) hidePointer();
  else selected.value = new Set();
}

/** To another page or frame; beyond the ends nothing happens. */
export function turn(step: number): void {
  const now = image.value;
  const place = now ? now.index - now.first + step : -1;
  if (now && place >= 0 && place < now.counts.length) go(step);
}

/** The selected objects, or all, through the pages or frames that follow, or those before. */
export async function follow(back: boolean): Promise<void> {
  const now = image.value;
  if (!now?.counts.length) return;
  await putDown();
  await settled();
  const chosen = own();
  const job = await attempt(() => api.start({ kind: "follow", indices: [now.index], objects: chosen.length ? chosen : null, back }));
  if (job) takeJob(job);
}

function actual(): void {
  const { width, height } = stageSize.value;
  const c = camera.value;
  center((width / 2 - c.x) / c.scale, (height / 2 - c.y) / c.scale, 1);
}

const grab = (name: ToolName, key: string): Command => ({ name, keys: [key], group: "tools", run: () => pick(name) });
const brush = (factor: number) => () => { radius.value = Math.max(1, Math.min(200, Math.round(radius.value * factor))); };

export const commands: Command[] = [
  { name: "previous", keys: [",", "ArrowLeft"], group: "go", run: () => go(-1) },
  { name: "next", keys: [".", "ArrowRight"], group: "go", run: () => go(1) },
  { name: "review", keys: ["Enter"], group: "go", run: () => (tool.value.pending?.() ? tool.value.finish?.() : review()) },
  { name: "previousPage", keys: ["PageUp"], group: "go", run: () => turn(-1) },
  { name: "nextPage", keys: ["PageDown"], group: "go", run: () => turn(1) },
  { name: "follow", keys: ["k"], group: "objects", run: () => void follow(false) },
  { name: "followBack", keys: ["Shift+K"], group: "objects", run: () => void follow(true) },
  grab("select", "v"), grab("click", "c"), grab("box", "b"), grab("extreme", "x"), grab("scribble", "s"),
  { name: "pointer", keys: ["q"], group: "tools", run: togglePointer },
  grab("polygon", "p"), grab("brush", "d"), grab("eraser", "e"), grab("split", "l"),
  { name: "keep", keys: ["Enter"], group: "tools", run: () => tool.value.finish?.() },
  { name: "alternative", keys: ["t"], group: "tools", run: () => { if (tool.value instanceof Prompter) void tool.value.alternative(); } },
  { name: "discard", keys: ["Escape"], group: "tools", run: escape },
  { name: "smaller", keys: ["["], group: "tools", run: brush(0.8) },
  { name: "larger", keys: ["]"], group: "tools", run: brush(1.25) },
  { name: "nextObject", keys: ["n"], group: "objects", run: nextObject },
  { name: "all", keys: ["Ctrl+a"], group: "objects", run: () => { selected.value = new Set(objects.value.map((o) => o.id)); } },
  { name: "remove", keys: ["Delete", "Backspace"], group: "objects", run: remove },
  { name: "merge", keys: ["m"], group: "objects", run: () => withOwn("merge", 2) },
  { name: "fill", keys: ["f"], group: "objects", run: () => withOwn("fill_holes") },
  { name: "crowd", keys: ["i"], group: "objects", run: () => { if (singleOwn.value) void act({ kind: "change", id: singleOwn.value.id, crowd: !singleOwn.value.crowd }); } },
  { name: "copy", keys: ["g"], group: "objects", run: () => void copyToNext() },
  { name: "accept", keys: ["a"], group: "objects", run: () => judge("accept") },
  { name: "acceptAll", keys: ["Shift+A"], group: "objects", run: acceptAll },
  { name: "reject", keys: ["r"], group: "objects", run: () => judge("reject") },
  { name: "fit", keys: ["0", "Home"], group: "view", run: () => { if (image.value) fit(image.value.width, image.value.height); } },
  { name: "actual", keys: ["Shift+!"], group: "view", run: actual },
  { name: "zoomIn", keys: ["+", "="], group: "view", run: () => zoom(1.25, pointerPlace()) },
  { name: "zoomOut", keys: ["-"], group: "view", run: () => zoom(0.8, pointerPlace()) },
  { name: "hide", keys: ["h"], group: "view", run: () => { shown.value = !shown.value; } },
  { name: "outline", keys: ["o"], group: "view", run: () => { outlines.value = !outlines.value; } },
  { name: "undo", keys: ["Ctrl+z"], group: "file", run: undo },
  { name: "redo", keys: ["Ctrl+Shift+Z", "Ctrl+y"], group: "file", run: redo },
  { name: "save", keys: ["Ctrl+s"], group: "file", run: () => void save() },
  { name: "help", keys: ["?"], group: "file", run: () => { helpOpen.value = !helpOpen.value; } },
];

export const command = (name: Name): Command => commands.find((c) => c.name === name)!;

/** The class of what is selected, and of what is drawn next. */
export function choose(id: number): void {
  category.value = id;
  for (const object of own()) void act({ kind: "change", id: object, category: id });
}

function keyOf(event: KeyboardEvent): string {
  const shift = event.shiftKey && (event.key.length > 1 || /[A-Z!]/.test(event.key)) ? "Shift+" : "";
  return (event.ctrlKey || event.metaKey ? "Ctrl+" : "") + shift + event.key;
}

function takesText(element: EventTarget | null): boolean {
  return element instanceof HTMLElement && element.matches("input:not([type=range], [type=checkbox]), select, textarea");
}

/** Buttons and lists keep the keys that move within them. */
function movesWithin(event: KeyboardEvent): boolean {
  const element = event.target as HTMLElement;
  return ["Enter", "ArrowLeft", "ArrowRight", "Home", "PageUp", "PageDown"].includes(event.key) && element.matches("button, a, input, [role=listbox] *");
}

export function handleKey(event: KeyboardEvent): void {
  const key = keyOf(event);
  if (takesText(event.target) || (movesWithin(event) && !tool.value.pending?.())) {
    if (event.key === "Escape") (event.target as HTMLElement).blur();
    if (key !== "Ctrl+s") return;
  }
  if (event.repeat && event.key === "Enter") return event.preventDefault(); // held down too long, not meant twice
  if (pointed(key)) return event.preventDefault();
  const number = /^[1-9]$/.test(key) ? project.value?.categories[Number(key) - 1] : undefined;
  const found = commands.find((c) => c.keys.includes(key));
  if (number) choose(number.id);
  else if (found) found.run();
  if (number || found) event.preventDefault();
}

/** A key as people write it. */
export function keyLabel(key: string): string {
  const names: Record<string, string> = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", "Shift+!": "Shift 1", "Ctrl+Shift+Z": "Ctrl Shift Z", Escape: "Esc" };
  return key === "+" ? key : (names[key] ?? key.split("+").map((part) => (part.length === 1 ? part.toUpperCase() : part)).join(" "));
}

export function tip(name: Name): string {
  const found = command(name);
  return `${texts.commands[name]} (${keyLabel(found.keys[0])})`;
}

