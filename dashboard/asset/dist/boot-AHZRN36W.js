"use strict";(()=>{try{let t=localStorage.getItem("tulle.theme");(t==="light"||t==="dark")&&(document.documentElement.dataset.theme=t)}catch{}})();
