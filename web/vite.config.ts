import { defineConfig } from "vite";

// The built page lies inside the Python package. Names without hashes keep its differences readable.
export default defineConfig({
  base: "/",
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  build: {
    outDir: "../src/eachmask/studio/page",
    emptyOutDir: true,
    sourcemap: false,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    rollupOptions: {
      output: { entryFileNames: "assets/studio.js", assetFileNames: "assets/[name][extname]" },
    },
  },
  server: { proxy: { "/api": "http://127.0.0.1:8765" } },
});
