/** All masks in one bitmap, drawn crisp when the view rests and moved as a whole while it does not. */
import type { Box, MaskObject } from "../types";
import type { Camera } from "./camera";
import { colorOf, pathOf } from "./paths";

export interface Look { opacity: number; outlines: boolean; selected: ReadonlySet<number>; proposals: ReadonlySet<number> }

const MARGIN = 0.25;
const REST_MS = 90;

export class Overlay {
  private readonly bitmap = document.createElement("canvas");
  private drawnFor: Camera = { scale: 1, x: 0, y: 0 };
  private key: unknown[] = [];
  private cost = 0;
  private timer = 0;

  constructor(private readonly again: () => void) {}

  /** `key` holds whatever the masks depend on besides the camera; equal members mean an equal look. */
  draw(context: CanvasRenderingContext2D, objects: MaskObject[], look: Look, camera: Camera, width: number, height: number, ratio: number, key: unknown[]): void {
    const changed = key.length !== this.key.length || key.some((part, i) => part !== this.key[i]);
    const moved = camera.scale !== this.drawnFor.scale || camera.x !== this.drawnFor.x || camera.y !== this.drawnFor.y;
    if (changed || (moved && this.cost < 5)) {
      this.render(objects, look, camera, width, height, ratio);
      this.key = key;
    } else if (moved) {
      clearTimeout(this.timer);
      this.timer = window.setTimeout(() => { this.key = []; this.again(); }, REST_MS);
    }
    const grown = camera.scale / this.drawnFor.scale;
    const [left, top] = [-MARGIN * width, -MARGIN * height];
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.imageSmoothingEnabled = moved;
    context.drawImage(
      this.bitmap, camera.x + (left - this.drawnFor.x) * grown, camera.y + (top - this.drawnFor.y) * grown,
      width * (1 + 2 * MARGIN) * grown, height * (1 + 2 * MARGIN) * grown,
    );
  }

  private render(objects: MaskObject[], look: Look, camera: Camera, width: number, height: number, ratio: number): void {
    const began = performance.now();
    const { bitmap } = this;
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
    for (const object of objects) {
      if (!look.selected.has(object.id) && meets(object.box, seen)) this.drawObject(context, object, look, scale, ratio);
    }
    this.drawnFor = camera;
    this.cost = performance.now() - began;
  }

  private drawObject(context: CanvasRenderingContext2D, object: MaskObject, look: Look, scale: number, ratio: number): void {
    const path = pathOf(object.rings);
    const proposed = look.proposals.has(object.id);
    context.fillStyle = context.strokeStyle = colorOf(object);
    context.globalAlpha = look.opacity * (proposed ? 0.5 : 1) * (object.crowd ? 0.5 : 1);
    if (context.globalAlpha > 0) context.fill(path, "evenodd");
    if (!look.outlines && !proposed) return;
    context.globalAlpha = 1;
    context.lineWidth = (1.5 * ratio) / scale;
    context.setLineDash(proposed || object.crowd ? [(5 * ratio) / scale, (4 * ratio) / scale] : []);
    context.stroke(path);
  }
}

function meets(a: Box, b: Box): boolean {
  return a[0] < b[2] && a[2] > b[0] && a[1] < b[3] && a[3] > b[1];
}
