/** Click, box, four extreme points, scribble: what a person shows, a promptable model turns into a mask. */
import { signal } from "@preact/signals";
import { api, ApiError } from "../api";
import { boundsOf, distance, pointsOf } from "../geometry";
import { act, actAndSelect, attempt, category, complain, editable, forgive, image, selected, singleOwn } from "../store";
import { texts } from "../texts";
import type { Answer, MaskObject, Point, Prompt, Ring } from "../types";
import { currentColor, pathOf } from "../view/paths";
import { redraw, strokeTwice } from "../view/scene";
import { dots, polyline, type Press, type Tool } from "./tool";

const GREEN = "#18a957";
const RED = "#e5484d";
const HOVER_MS = 35;
/** In the browser's own list of measurements: from the press of the button to the frame that shows the mask. */
const MEASURED = "click to mask";
const empty = (): Prompt => ({ points: [], signs: [], box: null, scribbles: [], id: null });
const isLone = (p: Prompt) => p.points.length === 1 && !p.box && !p.scribbles.length && p.id === null;

/** The pending mask of whichever of these tools is in hand, for the bar below the image. */
export const pendingMask = signal<{ score: number; others: boolean; corrects: boolean } | null>(null);

/** Whether the next press takes away: a finger has no right button. */
export const removing = signal(false);

export class Prompter implements Tool {
  readonly cursor = "crosshair";
  private prompt = empty();
  private answers: { rings: Ring[]; score: number }[] = [];
  private chosen = 0;
  private hover: Ring[] | null = null;
  private track: Point[] = [];
  private extremes: Point[] = [];
  private timer = 0;
  private flight: AbortController | null = null;
  /** What was asked where the pointer rests: a click there has its answer already. */
  private foreseen: { point: Point; answer: Promise<Answer> } | null = null;
  private target = -1;
  private turn = 0;
  private asking: Promise<void> | null = null;

  constructor(readonly name: "click" | "box" | "extreme" | "scribble") {}

  down({ point, right: button, shift, reach, at }: Press): void {
    const right = button || removing.value;
    if (!editable.value) return;
    if (shift && !this.pending() && singleOwn.value) this.prompt.id = singleOwn.value.id;
    clearTimeout(this.timer);
    this.target = image.value!.index;
    if (this.name === "click" || right) return this.add(point, !right, reach / 4, at);
    this.hover = null;
    if (this.name !== "extreme") return void (this.track = [point]);
    this.extremes.push(point);
    if (this.extremes.length < 4) return redraw();
    this.prompt.box = boundsOf(this.extremes);
    this.extremes = [];
    this.ask(at);
  }

  move({ point }: Press, pressed: boolean): void {
    if (this.track.length && pressed) {
      this.track = this.name === "box" ? [this.track[0], point] : [...this.track, point];
      return redraw();
    }
    if (this.name === "click" && !pressed && !this.pending() && editable.value) this.foresee(point);
  }

  up({ at }: Press): void {
    const { track } = this;
    this.track = [];
    if (track.length < 2) return;
    if (this.name === "box") this.prompt.box = boundsOf(track);
    else this.prompt.scribbles = [...this.prompt.scribbles, track.flat()];
    this.ask(at);
  }

  held(): boolean {
    return this.track.length > 0;
  }

  leave(): void {
    if (this.pending()) return;
    this.settle();
    this.hover = null;
    redraw();
  }

  pending(): boolean {
    const { points, scribbles, box } = this.prompt;
    return this.answers.length > 0 || points.length > 0 || scribbles.length > 0 || box !== null;
  }

  /** Who keeps before the answer is there keeps the answer. */
  async finish(): Promise<void> {
    const { turn } = this;
    await this.asking;
    if (turn !== this.turn) return;
    const rings = this.answers[this.chosen]?.rings;
    const { target: index, prompt: { id } } = this;
    this.drop();
    if (!rings?.length || image.value?.index !== index) return;
    void (id === null ? actAndSelect({ kind: "add", category: category.value, rings }) : act({ kind: "reshape", id, rings }));
  }

  /** Of a stroke that is held, only that stroke. */
  cancel(): boolean {
    const had = this.pending() || this.held() || this.extremes.length > 0;
    if (this.held()) this.track = [];
    else this.drop();
    redraw();
    return had;
  }

  private drop(): void {
    this.turn++;
    this.settle();
    [this.prompt, this.answers, this.chosen, this.hover, this.extremes, this.track] = [empty(), [], 0, null, [], []];
    [pendingMask.value, removing.value] = [null, false];
    redraw();
  }

  /** The next best answer; the others are only worked out when somebody wants to see them. */
  async alternative(): Promise<void> {
    if (this.answers.length === 1 && isLone(this.prompt)) {
      const { score } = this.answers[0];
      const turn = ++this.turn;
      const all = await attempt(() => this.send({ ...this.prompt, alternatives: true }));
      if (!all || turn !== this.turn) return;
      this.answers = [all, ...all.alternatives];
      const far = this.answers.map((a) => Math.abs(a.score - score));
      this.chosen = far.indexOf(Math.min(...far));
    }
    if (this.answers.length) this.chosen = (this.chosen + 1) % this.answers.length;
    this.announce();
  }

  private add(point: Point, sign: boolean, same: number, at: number): void {
    this.prompt.points = [...this.prompt.points, point];
    this.prompt.signs = [...this.prompt.signs, sign];
    const known = this.foreseen && distance(this.foreseen.point, point) <= same ? this.foreseen.answer : null;
    this.ask(at, sign && isLone(this.prompt) ? known : null);
    if (this.prompt.id === null) selected.value = new Set(); // draws the image: after the question, which takes longer
  }

  /** `start` is when the person had shown all. */
  private ask(start: number, known: Promise<Answer> | null = null): void {
    this.asking = this.answered(++this.turn, start, known);
  }

  private async answered(turn: number, start: number, known: Promise<Answer> | null): Promise<void> {
    const { prompt } = this;
    const answer = await attempt(() => (known ? known.catch(() => this.send(prompt)) : this.send(prompt)));
    if (turn !== this.turn) return; // dropped, or more was said
    this.hover = null;
    if (answer && !answer.rings.length) complain(new Error(texts.nothingThere));
    if (!answer?.rings.length) return this.answers.length ? redraw() : this.drop();
    forgive();
    this.take(answer);
    requestAnimationFrame(() => requestAnimationFrame(() => performance.measure(MEASURED, { start })));
  }

  private take(answer: Answer): void {
    this.answers = [answer, ...answer.alternatives];
    this.chosen = 0;
    this.announce();
  }

  private announce(): void {
    const now = this.answers[this.chosen];
    const others = isLone(this.prompt);
    pendingMask.value = now ? { score: now.score, others, corrects: this.prompt.id !== null } : null;
    redraw();
  }

  /** One question at a time: a newer one ends the one before it. */
  private send(prompt: Prompt): Promise<Answer> {
    this.flight?.abort();
    this.flight = new AbortController();
    return api.click(image.value!.index, prompt, this.flight.signal);
  }

  private foresee(point: Point): void {
    clearTimeout(this.timer);
    const now = image.value!;
    if (point[0] < 0 || point[1] < 0 || point[0] >= now.width || point[1] >= now.height) return this.leave();
    this.timer = window.setTimeout(() => void this.rest(point), HOVER_MS);
  }

  private async rest(point: Point): Promise<void> {
    const mine = { point, answer: this.send({ ...empty(), points: [point], signs: [true], hover: true }) };
    this.foreseen = mine;
    let rings: Ring[] | null = null;
    try {
      ({ rings } = await mine.answer);
    } catch (error) {
      if (error instanceof ApiError && error.status === 0) complain(error); // that nothing is there is no news
    }
    if (this.foreseen !== mine || this.pending()) return;
    this.hover = rings;
    if (!rings) this.foreseen = null;
    redraw();
  }

  private settle(): void {
    clearTimeout(this.timer);
    this.flight?.abort();
    this.foreseen = null;
  }

  /** What is corrected gives way to the answer. */
  replaces(object: MaskObject): Ring[] | null {
    return object.id === this.prompt.id ? (this.answers[this.chosen]?.rings ?? null) : null;
  }

  draw(context: CanvasRenderingContext2D, scale: number): void {
    const rings = this.answers[this.chosen]?.rings ?? this.hover;
    if (rings) {
      const path = pathOf(rings);
      context.fillStyle = currentColor();
      context.globalAlpha = this.hover ? 0.25 : 0.45;
      context.fill(path, "evenodd");
      context.globalAlpha = this.hover ? 0.8 : 1;
      strokeTwice(context, path, scale, currentColor());
      context.globalAlpha = 1;
    }
    const lines = [...this.prompt.scribbles.map((s) => polyline(pointsOf(s)))];
    if (this.track.length > 1) lines.push(this.name === "box" ? boxPath(this.track) : polyline(this.track));
    if (this.prompt.box) lines.push(boxPath([[this.prompt.box[0], this.prompt.box[1]], [this.prompt.box[2], this.prompt.box[3]]]));
    for (const line of lines) strokeTwice(context, line, scale, GREEN);
    dots(context, this.extremes, scale, GREEN);
    this.prompt.points.forEach((p, i) => dots(context, [p], scale, this.prompt.signs[i] ? GREEN : RED));
  }
}

function boxPath(points: Point[]): Path2D {
  const [x0, y0, x1, y1] = boundsOf(points);
  const path = new Path2D();
  path.rect(x0, y0, x1 - x0, y1 - y0);
  return path;
}
