/** What every tool answers. Points are in the image's pixels; `reach` is what 8 px of the screen are there, `at` when it
 *  happened (ms, as of `performance.now`). */
import type { MaskObject, Point, Ring } from "../types";

export interface Press { point: Point; right: boolean; shift: boolean; alt: boolean; reach: number; double: boolean; at: number }

export interface Tool {
  readonly name: ToolName;
  readonly cursor: string;
  down(press: Press): void;
  move(press: Press, pressed: boolean): void;
  up(press: Press): void;
  leave?(): void;
  /** Whether a press has taken hold of something that moves until it is let go. */
  held?(): boolean;
  /** Enter: keeps what is pending, once it is there. */
  finish?(): void | Promise<void>;
  /** Escape: drops what is pending; false where nothing was. */
  cancel?(): boolean;
  pending?(): boolean;
  draw(context: CanvasRenderingContext2D, scale: number): void;
  /** Rings shown in place of an object's own while they are being edited. */
  replaces?(object: MaskObject): Ring[] | null;
}

export const TOOL_NAMES = ["select", "click", "box", "extreme", "scribble", "polygon", "brush", "eraser", "split"] as const;
export type ToolName = (typeof TOOL_NAMES)[number];

export function polyline(points: Point[]): Path2D {
  const path = new Path2D();
  points.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
  return path;
}

export function dots(context: CanvasRenderingContext2D, points: Point[], scale: number, color: string, size = 4.5): void {
  for (const [x, y] of points) {
    context.beginPath();
    context.arc(x, y, size / scale, 0, 2 * Math.PI);
    context.fillStyle = color;
    context.fill();
    context.strokeStyle = "#fff";
    context.lineWidth = 1.5 / scale;
    context.stroke();
  }
}
