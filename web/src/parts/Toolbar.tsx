import { command, tip, type Name } from "../commands";
import { encoded, image, isProposal, radius, selected, selection, single } from "../store";
import { texts } from "../texts";
import { pick, tool, toolName } from "../tools/current";
import { pendingMask, Prompter, removing } from "../tools/prompter";
import { TOOL_NAMES, type ToolName } from "../tools/tool";
import { pointer } from "../view/pointer";

const DRAWN_BY_DRAGGING: ToolName[] = ["box", "scribble", "split"];
/** Shapes on a grid of 24. */
const ICONS: Record<ToolName, string> = {
  select: "M6 3l12 9-5.500 1L10 19z", click: "M12 4v16M4 12h16M12 8.500a3.500 3.500 0 1 0 .01 0",
  box: "M5 6h14v12H5z", extreme: "M12 4v.01M4 12v.01M20 12v.01M12 20v.01M12 4L4 12l8 8 8-8z",
  scribble: "M4 16c3-8 6-8 6-3s3 5 5-1 4-5 5-3", polygon: "M5 9l8-5 6 8-5 8-8-2z",
  brush: "M19 4L9 14M8 14c-2 0-3 1-3 3 0 1-1 2-2 2 2 1 7 1 7-2 0-2-1-3-2-3z", eraser: "M14 5l5 5-8 9H7l-3-3zM9 10l5 5",
  split: "M4 20L20 4M7 7h4M13 17h4",
};

export function Toolbar() {
  return (
    <div class="toolbar" role="toolbar" aria-label={texts.tools} aria-orientation="vertical">
      {TOOL_NAMES.map((name) => (
        <button class="icon" title={tip(name)} aria-label={texts.commands[name]} aria-pressed={toolName.value === name} onClick={() => pick(name)}>
          <svg viewBox="0 0 24 24" aria-hidden="true"><path d={ICONS[name]} /></svg>
        </button>
      ))}
    </div>
  );
}

/** What can be done with what is drawn or selected, below the image. */
export function ActionBar() {
  const name = toolName.value;
  const pending = pendingMask.value;
  if (tool.value instanceof Prompter && image.value && !encoded.value.has(image.value.index)) {
    return <div class="actionbar quiet" role="status">{texts.preparing}</div>;
  }
  if (pending) {
    return (
      <div class="actionbar" role="status">
        <span class="quiet">{texts.score} {pending.score.toFixed(2)} · {pending.corrects ? texts.correcting : texts.clickHint}</span>
        <button aria-pressed={removing.value} onClick={() => { removing.value = !removing.value; }}>{texts.takeAway}</button>
        {pending.others && <button title={tip("alternative")} onClick={() => void (tool.value as Prompter).alternative()}>{texts.alternative}</button>}
        <button title={tip("discard")} onClick={() => tool.value.cancel?.()}>{texts.discard}</button>
        <button class="primary" title={tip("keep")} onClick={() => tool.value.finish?.()}>{texts.keep}</button>
      </div>
    );
  }
  if (name === "brush" || name === "eraser") {
    return (
      <label class="actionbar">{texts.radius}
        <input type="range" min="1" max="100" value={radius.value} onInput={(e) => { radius.value = Number(e.currentTarget.value); }} />
        <span class="quiet">{radius.value} {texts.pixels}</span>
        {pointer.value && <span class="quiet">{dragHint()}</span>}
      </label>
    );
  }
  if (selected.value.size > 1) {
    return (
      <div class="actionbar">
        <span class="quiet">{texts.severalSelected(selected.value.size)}</span>
        {offered().map((each) => <button title={tip(each)} onClick={() => command(each).run()}>{texts.commands[each]}</button>)}
      </div>
    );
  }
  if (name === "click" || name === "polygon") return <div class="actionbar quiet">{name === "click" ? `${texts.clickHint}${single.value ? `. ${texts.correctHint}` : ""}` : texts.polygonHint}</div>;
  if (pointer.value && DRAWN_BY_DRAGGING.includes(name)) return <div class="actionbar quiet">{dragHint()}</div>;
  return null;
}

/** What can be done with several objects, or with several proposals. */
function offered(): Name[] {
  const proposed = selection.value.filter((o) => isProposal(o.id)).length;
  const judged: Name[] = proposed ? ["reject", "accept"] : [];
  return proposed < selection.value.length ? [...judged, "merge", "fill", "remove"] : judged;
}

const dragHint = () => (tool.value.held?.() ? texts.pointerHolds : texts.pointerDrags);
