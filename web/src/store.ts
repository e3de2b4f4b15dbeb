/** All state of the page, and everything that changes an image. */
import { computed, signal, type Signal } from "@preact/signals";
import { api, ApiError } from "./api";
import { texts } from "./texts";
import type { Action, Changed, Channel, ImageDetail, Job, MaskObject, Order, Project } from "./types";

export type View = "annotate" | "models" | "measure";
export interface Notice { text: string; bad: boolean; action?: { label: string; run: () => void } }

function remembered<T>(key: string, initial: T): Signal<T> {
  const stored = localStorage.getItem(`studio.${key}`);
  const value = signal<T>(stored === null ? initial : (JSON.parse(stored) as T));
  value.subscribe((now) => localStorage.setItem(`studio.${key}`, JSON.stringify(now)));
  return value;
}

export const project = signal<Project | null>(null);
export const image = signal<ImageDetail | null>(null);
export const problem = signal<string | null>(null);
export const view = signal<View>("annotate");
export const notice = signal<Notice | null>(null);
export const helpOpen = signal(false);
export const jobs = signal<Job[]>([]);
/** Counts what changed on the server, so that thumbnails and tables ask again. */
export const generation = signal(0);

export const selected = signal<ReadonlySet<number>>(new Set());
export const category = signal(0);
export const encoded = signal<ReadonlySet<number>>(new Set());

export const order = remembered<Order>("order", "name");
export const opacity = remembered("opacity", 0.35);
export const outlines = remembered("outlines", true);
export const shown = signal(true);
export const colorBy = remembered<"class" | "object">("color", "class");
export const radius = remembered("radius", 12);
export const threshold = remembered("threshold", 0.5);
export const low = signal<number | null>(null);
export const high = signal<number | null>(null);
export const channel = signal<number | null>(null);
/** How each channel of an image with channels to choose from is shown. */
export interface Shade { on: boolean; color: string; low: number | null; high: number | null }
export const shades = signal<Shade[]>([]);

export const objects = computed(() => image.value?.objects ?? []);
export const proposals = computed(() =>
  (image.value?.proposals ?? []).filter((p) => (p.score ?? 1) >= threshold.value));
export const selection = computed(() => [...objects.value, ...proposals.value].filter((o) => selected.value.has(o.id)));
export const single = computed(() => (selection.value.length === 1 ? selection.value[0] : null));
/** The one selected object, where it is no proposal. */
export const singleOwn = computed(() => (single.value && !isProposal(single.value.id) ? single.value : null));
export const editable = computed(() => image.value !== null);

export function isProposal(id: number): boolean {
  return image.value?.proposals.some((p) => p.id === id) ?? false;
}

export function say(text: string, action?: Notice["action"]): void {
  notice.value = { text, bad: false, action };
}

export function complain(error: unknown): void {
  if (error instanceof DOMException && error.name === "AbortError") return;
  notice.value = { text: error instanceof Error ? error.message : texts.unexpected, bad: true };
}

/** A complaint is over once something else is done; one that offers a remedy waits for its answer. */
export function forgive(): void {
  if (notice.value?.bad && !notice.value.action) notice.value = null;
}

/** Runs something that asks the server; what goes wrong is told to the person. */
export async function attempt<T>(run: () => Promise<T>): Promise<T | undefined> {
  try {
    return await run();
  } catch (error) {
    complain(error);
    return undefined;
  }
}

export async function loadProject(): Promise<void> {
  const loaded = await attempt(api.project);
  if (!loaded) return;
  project.value = loaded;
  if (!loaded.categories.some((c) => c.id === category.value)) category.value = loaded.categories[0]?.id ?? 0;
}

let opening = 0;

export async function open(index: number, keepView = false): Promise<void> {
  const total = project.value?.count ?? 0;
  if (index < 0 || index >= total) return;
  const turn = ++opening;
  try {
    const detail = await api.image(index);
    if (turn !== opening) return;
    const before = image.value;
    const sameClip = before?.first === detail.first && detail.counts.length > 0;
    if (!keepView && !sameClip) [low.value, high.value, channel.value] = [null, null, null];
    takeShades(detail.channels, keepView || sameClip);
    selected.value = keepView ? kept(detail) : sameClip ? followed(detail) : new Set();
    [problem.value, image.value] = [null, detail];
    void lookAhead(index, total);
  } catch (error) {
    if (turn !== opening) return;
    if (error instanceof ApiError && error.status === 0) return complain(error);
    [image.value, problem.value, failed.value] = [null, error instanceof Error ? error.message : "", index];
  } finally {
    if (turn === opening) history.replaceState(null, "", `#${index}`);
  }
}

function kept(detail: ImageDetail): Set<number> {
  return new Set([...detail.objects, ...detail.proposals].map((o) => o.id).filter((id) => selected.value.has(id)));
}

/** The same objects on another page or frame. */
function followed(detail: ImageDetail): Set<number> {
  const tracks = new Set(selection.value.map((o) => o.track).filter((track) => track));
  return new Set(detail.objects.filter((o) => tracks.has(o.track)).map((o) => o.id));
}

/** Colors and what is shown stay from image to image, values do within a clip. */
function takeShades(channels: Channel[], same: boolean): void {
  const now = shades.value.length === channels.length ? shades.value : channels.map(({ color }) => ({ on: true, color, low: null, high: null }));
  shades.value = same ? now : now.map((shade) => ({ ...shade, low: null, high: null }));
}

/** The image that could not be opened: the person can still go on from it. */
export const failed = signal(0);
export const current = computed(() => image.value?.index ?? failed.value);

async function lookAhead(index: number, total: number): Promise<void> {
  for (const i of [index, index + 1]) {
    if (i >= total || encoded.value.has(i)) continue;
    const looked = api.look(i);
    await (i === index ? attempt(() => looked) : looked.catch(() => undefined));
    encoded.value = new Set([...encoded.value, i]);
  }
}

function replace(list: MaskObject[], changed: Changed): MaskObject[] {
  const fresh = new Map(changed.objects.map((o) => [o.id, o]));
  const gone = new Set(changed.removed);
  const kept = list.filter((o) => !gone.has(o.id)).map((o) => {
    const now = fresh.get(o.id);
    fresh.delete(o.id);
    return now ?? o;
  });
  return [...kept, ...fresh.values()];
}

function take(index: number, changed: Changed): void {
  const now = image.value;
  if (now?.index !== index) return;
  const { revision, can_undo, can_redo } = changed;
  const gone = new Set(changed.removed);
  const proposed = changed.proposals ?? now.proposals.filter((p) => !gone.has(p.id));
  const mine = replace(now.objects, changed);
  const counts = now.counts.map((count, i) => (i === now.index - now.first ? mine.length : count));
  image.value = { ...now, revision, can_undo, can_redo, counts, objects: mine, proposals: proposed };
  if (gone.size) selected.value = new Set([...selected.value].filter((id) => !gone.has(id)));
  generation.value++;
  if (project.value) project.value = { ...project.value, unsaved: Math.max(1, project.value.unsaved) };
}

let line: Promise<unknown> = Promise.resolve();

/** Once every change so far is on the server. */
export const settled = (): Promise<unknown> => line;

/** Another tab, or a job, has brought an image to a revision; one's own changes are told of too, and are there already. */
export function changedElsewhere(index: number, revision: number): void {
  generation.value++;
  void line.then(() => {
    if (image.value?.index === index && image.value.revision < revision) void open(index, true);
  });
}

/** One change after the other: each names the revision that the one before it left. */
function inLine(change: (index: number, revision: number) => Promise<Changed>): Promise<Changed | undefined> {
  const index = image.value?.index;
  const turn = line.then(async () => {
    const now = image.value;
    if (!now || now.index !== index) return undefined;
    try {
      const changed = await change(now.index, now.revision);
      take(now.index, changed);
      forgive();
      return changed;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 409) return void complain(error);
      say(texts.changedElsewhere);
      return void (await open(now.index, true));
    }
  });
  line = turn;
  return turn;
}

export function act(action: Action): Promise<Changed | undefined> {
  if (editable.value) return inLine((index, revision) => api.act(index, revision, action));
  return Promise.resolve(undefined);
}

/** Selects what a change made, so that the next key concerns it. */
export async function actAndSelect(action: Action): Promise<void> {
  const changed = await act(action);
  const last = changed?.objects.at(-1);
  if (last) selected.value = new Set([last.id]);
}

export const undo = () => { if (image.value?.can_undo) void inLine(api.undo); };
export const redo = () => { if (image.value?.can_redo) void inLine(api.redo); };

export async function save(options: { format?: string; overwrite?: boolean } = {}): Promise<void> {
  try {
    const answer = await api.save(options);
    say(texts.saved(answer.written, answer.path));
    await loadProject();
  } catch (error) {
    const paths = error instanceof ApiError && error.status === 409 ? error.body.changed_on_disk : null;
    if (!Array.isArray(paths)) return complain(error);
    const overwrite = { label: texts.overwrite, run: () => void save({ ...options, overwrite: true }) };
    notice.value = { text: texts.changedOnDisk(paths.join(", ")), bad: true, action: overwrite };
  }
}

export function takeJob(job: Job): void {
  const known = jobs.value.some((j) => j.id === job.id);
  jobs.value = known ? jobs.value.map((j) => (j.id === job.id ? job : j)) : [job, ...jobs.value];
}
