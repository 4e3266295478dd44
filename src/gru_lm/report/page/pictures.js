"use strict";

/* Each picture becomes a button that shows it at its full size in the dialog. Escape, the button
   Close or a click beside the picture closes the dialog; the focus then returns to the picture. */
{
  const dialog = document.getElementById("enlarged");
  const place = document.getElementById("enlarged-picture");
  let opener = null;

  for (const frame of document.querySelectorAll("figure > .picture")) {
    const button = Object.assign(document.createElement("button"), {
      type: "button",
      title: "Enlarge this figure",
    });
    button.setAttribute("aria-haspopup", "dialog");
    button.append(...frame.children);
    frame.append(button);
    button.addEventListener("click", () => {
      opener = button;
      place.replaceChildren(...[...button.children].map((image) => image.cloneNode()));
      dialog.showModal();
      place.scrollTo(0, 0);
    });
  }

  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target.closest("img, #close") ?? dialog.close());
  dialog.addEventListener("close", () => {
    place.replaceChildren();
    opener.focus();
  });
}
