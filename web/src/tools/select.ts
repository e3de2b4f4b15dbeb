/** Selects objects; moves, adds and takes away the vertices of the one that is selected. */
import { distance, edgeAt, objectAt, simplify, vertexAt, pointsOf, type Grip } from "../geometry";
import { act, objects, proposals, selected, single, singleOwn } from "../store";
import type { MaskObject, Point, Ring } from "../types";
import { colorOf } from "../view/paths";
import { redraw } from "../view/scene";
import { dots, type Press, type Tool } from "./tool";

const MAX_VERTICES = 400;

export class Select implements Tool {
  readonly name = "select";
  readonly cursor = "default";
  private grip: Grip | null = null;
  /** Where a vertex goes once the press becomes a drag. */
  private edge: Grip | null = null;
  private from: Point = [0, 0];
  private edited: { object: MaskObject; rings: Ring[]; changed: boolean } | null = null;

  /** The selected object's outline with few enough vertices to take hold of. */
  private handles(): NonNullable<Select["edited"]> | null {
    const object = singleOwn.value;
    if (!object) return (this.edited = null);
    if (this.edited?.object !== object) {
      this.edited = { object, rings: object.rings.map((ring) => simplify(ring, 0.8)), changed: false };
    }
    return this.edited.rings.reduce((n, r) => n + r.length / 2, 0) <= MAX_VERTICES ? this.edited : null;
  }

  down(press: Press): void {
    const handles = press.shift ? null : this.handles();
    this.grip = handles && vertexAt(press.point, handles.rings, press.reach);
    if (handles && this.grip && (press.right || press.alt)) return this.takeAway(this.grip);
    if (this.grip) return;
    this.edge = handles && edgeAt(press.point, handles.rings, press.reach);
    this.from = press.point;
    const hit = objectAt(press.point, [...objects.value, ...proposals.value]);
    if (this.edge && (!hit || hit.id === single.value?.id)) return; // dragging adds a vertex
    this.edge = null;
    if (!press.shift) return void (selected.value = new Set(hit ? [hit.id] : []));
    if (!hit) return;
    const now = new Set(selected.value);
    if (!now.delete(hit.id)) now.add(hit.id);
    selected.value = now;
  }

  move({ point, reach }: Press, pressed: boolean): void {
    if (pressed && this.edge && distance(point, this.from) > reach / 2) this.insert(this.edge, point);
    if (!pressed || !this.grip || !this.edited) return;
    const { ring, vertex } = this.grip;
    const rings = this.edited.rings.map((r) => [...r]);
    [rings[ring][2 * vertex], rings[ring][2 * vertex + 1]] = point;
    this.edited = { ...this.edited, rings, changed: true };
    redraw();
  }

  up(): void {
    [this.grip, this.edge] = [null, null];
    if (this.edited?.changed) this.send();
  }

  held(): boolean {
    return this.grip !== null || this.edge !== null;
  }

  private insert({ ring, vertex }: Grip, point: Point): void {
    const rings = this.edited!.rings.map((r) => [...r]);
    rings[ring].splice(2 * vertex, 0, ...point);
    this.edited = { ...this.edited!, rings, changed: true };
    [this.grip, this.edge] = [{ ring, vertex }, null];
  }

  private takeAway({ ring, vertex }: Grip): void {
    const rings = this.edited!.rings.map((r) => [...r]);
    rings[ring].splice(2 * vertex, 2);
    this.grip = null;
    this.edited = { ...this.edited!, rings: rings.filter((r) => r.length >= 6), changed: true };
    if (this.edited.rings.length) this.send();
    else this.edited = null;
  }

  private send(): void {
    const { object, rings } = this.edited!;
    this.edited!.changed = false;
    void act({ kind: "reshape", id: object.id, rings });
  }

  cancel(): boolean {
    const had = this.held();
    [this.edited, this.grip, this.edge] = [null, null, null];
    redraw();
    return had;
  }

  replaces(object: MaskObject): Ring[] | null {
    return this.grip && this.edited?.object === object ? this.edited.rings : null;
  }

  draw(context: CanvasRenderingContext2D, scale: number): void {
    const handles = this.handles();
    if (!handles) return;
    for (const ring of handles.rings) dots(context, pointsOf(ring), scale, colorOf(handles.object), 3);
  }
}
