#!/bin/sh
# Makes vendor/jax.js anew: jax-js from npm, bundled into one classic script by esbuild (needs node and npm).
set -eu
JAX_JS=0.1.25
ESBUILD=0.28.2
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
cd "$folder"
npm install --no-save --no-audit --no-fund "@jax-js/jax@$JAX_JS" "esbuild@$ESBUILD"
echo 'export { init, defaultDevice, grad, valueAndGrad, jit, numpy, nn } from "@jax-js/jax";' > entry.js
# the backends for WebGPU and WebGL are never asked for, and left out
npx esbuild entry.js --bundle --minify --format=iife --global-name=jax --target=es2022 --legal-comments=none \
  '--external:./webgpu-*' '--external:./webgl-*' --outfile="$here/jax.js"
cp node_modules/@jax-js/jax/LICENSE "$here/LICENSE"
sha256sum "$here/jax.js"
