/** What the server says and is told. Coordinates are the image's own pixels; rings are flat lists x0, y0, x1, y1 ... */

export type Ring = number[];
export type Point = [number, number];
export type Box = [number, number, number, number];

export interface Category { id: number; name: string; parent: string; color: string }

export interface Project {
  name: string;
  count: number;
  format: string;
  labels_path: string;
  read_only: boolean;
  unsaved: number;
  categories: Category[];
  models: { name: string }[];
  model: string;
}

export interface ImageRow {
  index: number;
  name: string;
  width: number | null;
  height: number | null;
  objects: number;
  proposals: number;
  reviewed: boolean;
  doubt: number | null;
  problem: string | null;
}

export type Order = "name" | "doubt" | "objects";

export interface MaskObject {
  id: number;
  category: number;
  crowd: boolean;
  score: number | null;
  source: "person" | "model" | "file";
  rings: Ring[];
  box: Box;
  area: number;
  /** Its number in a video or stack; 0: it is on this image alone. */
  track: number;
  comment: string;
  attributes: Record<string, string>;
}

export interface Channel { color: string; span: [number, number]; window: [number, number] }

export interface ImageDetail {
  index: number;
  name: string;
  width: number;
  height: number;
  /** Of the stack, video or row of files that it is in, and how many objects each page or frame of that has. */
  first: number;
  counts: number[];
  channels: Channel[];
  bits: number;
  levels: number;
  span: [number, number];
  window: [number, number];
  revision: number;
  can_undo: boolean;
  can_redo: boolean;
  comment: string;
  objects: MaskObject[];
  proposals: MaskObject[];
}

export type Action =
  | { kind: "add"; category: number; rings: Ring[] }
  | { kind: "change"; id: number; category?: number; crowd?: boolean; comment?: string; attributes?: Record<string, string>; track?: number }
  | { kind: "reshape"; id: number; rings: Ring[] }
  | { kind: "paint"; id: number | null; category: number; stroke: number[]; radius: number; erase: boolean }
  | { kind: "split"; id: number; line: number[] }
  | { kind: "remove" | "merge" | "fill_holes" | "accept" | "reject"; ids: number[] }
  | { kind: "accept_above"; score: number }
  | { kind: "copy_from"; image: number }
  | { kind: "review"; reviewed: boolean };

export interface Changed {
  revision: number;
  can_undo: boolean;
  can_redo: boolean;
  objects: MaskObject[];
  removed: number[];
  proposals: MaskObject[] | null;
}

export interface Prompt {
  points: Point[];
  signs: boolean[];
  box: Box | null;
  scribbles: number[][];
  id: number | null;
  alternatives?: boolean;
  hover?: boolean;
}

export interface Answer {
  rings: Ring[];
  score: number;
  alternatives: { rings: Ring[]; score: number }[];
  ms: number;
}

export interface Job {
  id: string;
  kind: "predict" | "train" | "measure" | "follow";
  state: "running" | "done" | "failed" | "stopped";
  progress: number;
  message: string;
  eta_s: number | null;
  curve: [number, number][];
  samples: string[];
  result: Record<string, unknown> | null;
}

export type JobOrder =
  | { kind: "predict"; model: string; threshold: number; indices: number[] | null }
  | { kind: "train"; variant: string; epochs: number; categories: number[] }
  | { kind: "measure"; model: string | null }
  | { kind: "follow"; indices: [number]; objects: number[] | null; back: boolean };

export interface MeasureRow { image: number; name: string; matched: number; missed: number; invented: number; poor: number }
export type Cell = string | number | boolean | null;

export interface Measures {
  rows: MeasureRow[];
  by_category: Record<string, Cell>[];
  by_size: { size: "small" | "medium" | "large"; matched: number; missed: number; invented: number; poor: number }[];
  objects: Record<string, Cell>[];
  unit: string;
}

export type ExportFormat = "csv" | "coco" | "yolo" | "geojson" | "label-tiff" | "tracks";
