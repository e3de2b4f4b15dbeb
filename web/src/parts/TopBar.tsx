import { command, go, tip } from "../commands";
import { current, editable, forgive, helpOpen, image, project, redo, save, undo, view, type View } from "../store";
import { texts } from "../texts";

export function TopBar() {
  const now = image.value;
  const all = project.value;
  return (
    <header class="topbar">
      <strong class="brand">{all?.name ?? texts.name}</strong>
      <div class="tabs" role="tablist">
        {(Object.keys(texts.views) as View[]).map((name) => (
          <button role="tab" aria-selected={view.value === name} onClick={() => { forgive(); view.value = name; }}>{texts.views[name]}</button>
        ))}
      </div>
      <div class="where">
        <button class="icon" title={tip("previous")} aria-label={texts.commands.previous} onClick={() => go(-1)}>‹</button>
        <span class="title"><b>{now?.name ?? ""}</b> <span class="quiet">{all && texts.imageOf(current.value, all.count)}
          {now && ` · ${texts.size(now.width, now.height, now.bits)}`}</span></span>
        <button class="icon" title={tip("next")} aria-label={texts.commands.next} onClick={() => go(1)}>›</button>
      </div>
      <button class="icon" title={tip("undo")} aria-label={texts.commands.undo} disabled={!now?.can_undo} onClick={undo}>↶</button>
      <button class="icon" title={tip("redo")} aria-label={texts.commands.redo} disabled={!now?.can_redo} onClick={redo}>↷</button>
      <button title={tip("review")} disabled={!editable.value} onClick={() => command("review").run()}>✓ {texts.reviewed}</button>
      <button class="primary" title={all?.read_only ? texts.readOnly : texts.saveHint} disabled={all?.read_only} onClick={() => void save()}>
        {texts.save}{all && all.unsaved > 0 && <span class="dot" title={texts.unsaved} />}
      </button>
      <button class="icon" title={tip("help")} aria-label={texts.help} onClick={() => { helpOpen.value = true; }}>?</button>
    </header>
  );
}

