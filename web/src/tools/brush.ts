/** Paints onto the selected object, or a new one; erases from it. */
import { objectAt } from "../geometry";
import { act, actAndSelect, category, editable, objects, radius, selected, single, singleOwn } from "../store";
import type { Point } from "../types";
import { colorOf, currentColor } from "../view/paths";
import { redraw } from "../view/scene";
import { polyline, type Press, type Tool } from "./tool";

export class Brush implements Tool {
  readonly cursor = "none";
  readonly name;
  private stroke: Point[] = [];
  private at: Point | null = null;

  constructor(private readonly erase: boolean) {
    this.name = erase ? ("eraser" as const) : ("brush" as const);
  }

  down({ point }: Press): void {
    if (!editable.value) return;
    if (this.erase && !single.value) {
      const hit = objectAt(point, objects.value);
      if (hit) selected.value = new Set([hit.id]);
    }
    this.stroke = [point];
    redraw();
  }

  move({ point }: Press, pressed: boolean): void {
    this.at = point;
    if (pressed && this.stroke.length) this.stroke.push(point);
    redraw();
  }

  up(press: Press): void {
    const stroke = this.stroke.length === 1 ? [...this.stroke, press.point] : this.stroke;
    this.stroke = [];
    const own = singleOwn.value;
    if (!stroke.length || (this.erase && !own)) return redraw();
    const id = own?.id ?? null;
    const action = {
      kind: "paint" as const, id, category: own?.category ?? category.value, stroke: stroke.flat(), radius: radius.value,
      erase: this.erase,
    };
    void (id === null ? actAndSelect(action) : act(action));
  }

  held(): boolean {
    return this.stroke.length > 0;
  }

  leave(): void {
    this.at = null;
    redraw();
  }

  cancel(): boolean {
    const had = this.stroke.length > 0;
    this.stroke = [];
    redraw();
    return had;
  }

  draw(context: CanvasRenderingContext2D, scale: number): void {
    const color = this.erase ? "#ffffff" : single.value ? colorOf(single.value) : currentColor();
    if (this.stroke.length) {
      context.strokeStyle = color;
      context.globalAlpha = 0.5;
      context.lineWidth = 2 * radius.value;
      context.stroke(polyline([this.stroke[0], ...this.stroke]));
      context.globalAlpha = 1;
    }
    if (!this.at) return;
    for (const [style, width] of [["#000", 2.5], [color, 1.2]] as const) {
      context.beginPath();
      context.arc(...this.at, radius.value, 0, 2 * Math.PI);
      context.strokeStyle = style;
      context.lineWidth = width / scale;
      context.stroke();
    }
  }
}
