/** All masks in one bitmap, moved as a whole while the view moves; another one is drawn meanwhile, a part in each frame. */
import type { Box, MaskObject } from "../types";
import type { Camera } from "./camera";
import { colorOf, pathOf } from "./paths";

export interface Look { opacity: number; outlines: boolean; selected: ReadonlySet<number>; proposals: ReadonlySet<number> }
interface Frame { width: number; height: number; ratio: number }
/** A bitmap that is being drawn, and how far that has come. */
interface Work { bitmap: HTMLCanvasElement; camera: Camera; objects: MaskObject[]; look: Look; at: number }

const MARGIN = 0.25;
/** Vertices that are drawn within a frame of 16 ms; time says nothing, as browsers draw what they are told later. */
const PER_FRAME = 12_000;
/** Side of what is seen as a dot, px of the screen. */
const DOT = 2.5;

export class Overlay {
  private shown = document.createElement("canvas");
  private spare = document.createElement("canvas");
  private drawnFor: Camera = { scale: 1, x: 0, y: 0 };
  private key: unknown[] = [];
  private work: Work | null = null;

  constructor(private readonly again: () => void) {}

  /** `key` holds whatever the masks depend on besides the camera; equal members mean an equal look. */
  draw(context: CanvasRenderingContext2D, objects: MaskObject[], look: Look, camera: Camera, frame: Frame, key: unknown[]): void {
    const changed = key.length !== this.key.length || key.some((part, i) => part !== this.key[i]);
    if (changed) this.work = null;
    if (changed || (!this.work && !same(camera, this.drawnFor))) this.work = this.begin(objects, look, camera, frame);
    this.key = key;
    if (this.work) this.proceed(this.work, frame, changed ? Infinity : PER_FRAME);
    if (this.work || !same(camera, this.drawnFor)) this.again();
    this.copy(context, camera, frame);
  }

  private copy(context: CanvasRenderingContext2D, camera: Camera, { width, height, ratio }: Frame): void {
    const grown = camera.scale / this.drawnFor.scale;
    const [left, top] = [-MARGIN * width, -MARGIN * height];
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.imageSmoothingEnabled = !same(camera, this.drawnFor);
    context.drawImage(
      this.shown, camera.x + (left - this.drawnFor.x) * grown, camera.y + (top - this.drawnFor.y) * grown,
      width * (1 + 2 * MARGIN) * grown, height * (1 + 2 * MARGIN) * grown,
    );
  }

  private begin(objects: MaskObject[], look: Look, camera: Camera, { width, height, ratio }: Frame): Work {
    const bitmap = this.spare;
    const [w, h] = [Math.round(width * (1 + 2 * MARGIN) * ratio), Math.round(height * (1 + 2 * MARGIN) * ratio)];
    if (bitmap.width !== w || bitmap.height !== h) [bitmap.width, bitmap.height] = [w, h];
    const context = bitmap.getContext("2d")!;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, w, h);
    const scale = camera.scale * ratio;
    const [dx, dy] = [(camera.x + MARGIN * width) * ratio, (camera.y + MARGIN * height) * ratio];
    context.setTransform(scale, 0, 0, scale, dx, dy);
    context.lineJoin = "round";
    const seen: Box = [-dx / scale, -dy / scale, (w - dx) / scale, (h - dy) / scale];
    return { bitmap, camera, look, at: 0, objects: objects.filter((o) => !look.selected.has(o.id) && meets(o.box, seen)) };
  }

  /** Draws about so many vertices more; what is finished is shown. */
  private proceed(work: Work, { ratio }: Frame, most: number): void {
    const context = work.bitmap.getContext("2d")!;
    for (let drawn = 0; work.at < work.objects.length && drawn < most; work.at++) {
      drawn += drawObject(context, work.objects[work.at], work.look, work.camera.scale * ratio, ratio);
    }
    if (work.at < work.objects.length) return;
    [this.shown, this.spare, this.drawnFor, this.work] = [work.bitmap, this.shown, work.camera, null];
  }
}

/** Returns how many vertices that were. */
function drawObject(context: CanvasRenderingContext2D, object: MaskObject, look: Look, scale: number, ratio: number): number {
  const proposed = look.proposals.has(object.id);
  const outlined = look.outlines || proposed;
  context.fillStyle = context.strokeStyle = colorOf(object);
  const [x0, y0, x1, y1] = object.box;
  if (Math.max(x1 - x0, y1 - y0) * scale < DOT * ratio) {
    context.globalAlpha = outlined ? 1 : look.opacity;
    context.fillRect(x0, y0, x1 - x0, y1 - y0);
    return 4;
  }
  const path = pathOf(object.rings);
  context.globalAlpha = look.opacity * (proposed ? 0.5 : 1) * (object.crowd ? 0.5 : 1);
  if (context.globalAlpha > 0) context.fill(path, "evenodd");
  if (outlined) {
    context.globalAlpha = 1;
    context.lineWidth = (1.5 * ratio) / scale;
    context.setLineDash(proposed || object.crowd ? [(5 * ratio) / scale, (4 * ratio) / scale] : []);
    context.stroke(path);
  }
  return object.rings.reduce((sum, ring) => sum + ring.length / 2, 0);
}

function same(a: Camera, b: Camera): boolean {
  return a.scale === b.scale && a.x === b.x && a.y === b.y;
}

function meets(a: Box, b: Box): boolean {
  return a[0] < b[2] && a[2] > b[0] && a[1] < b[3] && a[3] > b[1];
}
