// A drag over the picture of prompted segmentation is a box: its corners, in pixels of the picture, go into the hidden
// field #drag. Gradio's image tells of clicks alone.
(() => {
  const LEAST = 6; // pixels of the screen; what is shorter is a click
  let drag = null;
  let count = 0;

  const image = () => document.querySelector("#picture img");
  const isOver = (event) => event.target instanceof Element && event.target.closest("#picture img, #picture button:has(img)");
  const isLong = (event) => Math.hypot(event.clientX - drag.x, event.clientY - drag.y) >= LEAST;

  // the picture keeps its shape inside of the element that shows it
  function inPicture(x, y) {
    const shown = image();
    const place = shown.getBoundingClientRect();
    const scale = Math.min(place.width / shown.naturalWidth, place.height / shown.naturalHeight);
    const left = place.left + (place.width - scale * shown.naturalWidth) / 2;
    const top = place.top + (place.height - scale * shown.naturalHeight) / 2;
    const within = (value, most) => Math.min(Math.max(value / scale, 0), most);
    return [within(x - left, shown.naturalWidth), within(y - top, shown.naturalHeight)];
  }

  function follow(event) {
    if (!drag.frame && isLong(event)) {
      drag.frame = document.createElement("div");
      drag.frame.id = "drag-frame";
      document.body.append(drag.frame);
    }
    if (!drag.frame) return;
    Object.assign(drag.frame.style, {
      left: `${Math.min(drag.x, event.clientX)}px`,
      top: `${Math.min(drag.y, event.clientY)}px`,
      width: `${Math.abs(event.clientX - drag.x)}px`,
      height: `${Math.abs(event.clientY - drag.y)}px`,
    });
  }

  function end() {
    drag.frame?.remove();
    drag = null;
    removeEventListener("pointermove", follow);
    removeEventListener("pointerup", finish);
    removeEventListener("pointercancel", end);
    removeEventListener("keydown", giveUp);
  }

  function giveUp(event) {
    if (event.key === "Escape") end();
  }

  function finish(event) {
    const wasLong = drag.frame !== null;
    const corners = wasLong && [...inPicture(drag.x, drag.y), ...inPicture(event.clientX, event.clientY)];
    end();
    if (!wasLong) return;
    // the click that the browser makes of it is none
    const swallow = (click) => click.stopPropagation();
    addEventListener("click", swallow, { capture: true, once: true });
    setTimeout(() => removeEventListener("click", swallow, { capture: true }));
    const field = document.querySelector("#drag textarea, #drag input");
    // the number makes two equal drags two changes
    field.value = JSON.stringify([...corners, ++count]);
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  addEventListener("pointerdown", (event) => {
    // a finger scrolls the page; there two clicks are a box
    if (event.button !== 0 || event.pointerType === "touch" || drag || !image() || !isOver(event)) return;
    drag = { x: event.clientX, y: event.clientY, frame: null };
    addEventListener("pointermove", follow);
    addEventListener("pointerup", finish);
    addEventListener("pointercancel", end);
    addEventListener("keydown", giveUp);
  });
  // else the browser would carry the picture away
  addEventListener("dragstart", (event) => isOver(event) && event.preventDefault());
})();
