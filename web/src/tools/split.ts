/** A line drawn across an object makes two of it. */
import { objectAt } from "../geometry";
import { act, editable, objects, singleOwn } from "../store";
import type { Point } from "../types";
import { redraw, strokeTwice } from "../view/scene";
import { polyline, type Press, type Tool } from "./tool";

export class Split implements Tool {
  readonly name = "split";
  readonly cursor = "crosshair";
  private line: Point[] = [];

  down({ point }: Press): void {
    if (editable.value) this.line = [point];
  }

  move({ point }: Press, pressed: boolean): void {
    if (!pressed || !this.line.length) return;
    this.line.push(point);
    redraw();
  }

  up(): void {
    const { line } = this;
    this.line = [];
    redraw();
    const own = singleOwn.value ?? this.crossed(line);
    if (own && line.length > 1) void act({ kind: "split", id: own.id, line: line.flat() });
  }

  held(): boolean {
    return this.line.length > 0;
  }

  private crossed(line: Point[]) {
    return line.map((p) => objectAt(p, objects.value)).find((o) => o !== undefined);
  }

  cancel(): boolean {
    const had = this.line.length > 0;
    this.line = [];
    redraw();
    return had;
  }

  draw(context: CanvasRenderingContext2D, scale: number): void {
    if (this.line.length > 1) strokeTwice(context, polyline(this.line), scale, "#e5484d");
  }
}
