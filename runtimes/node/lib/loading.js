'use strict';
// Finds the handler: `module.function`, `folder/module.function`, `module.object.function`.

const fs = require('fs');
const path = require('path');
const { Fault, text } = require('./faults.js');

// The function that _HANDLER names. Rejects with a Fault, or with what the module itself throws.
async function load(root, handler, legacy) {
  if (handler.includes('..')) {
    throw new Fault('Runtime.MalformedHandlerName', `'${handler}' is not a valid handler name. Use absolute paths when `
      + 'specifying root directories in handler names.');
  }
  const base = path.basename(handler);
  const dot = base.indexOf('.');
  if (dot < 0) throw new Fault('Runtime.MalformedHandlerName', 'Bad handler');
  const folder = handler.slice(0, handler.indexOf(base));
  const module = await loadModule(root, folder, base.slice(0, dot));
  let found = lookUp(module, base.slice(dot + 1));
  if (!found && !legacy && module && module.default) found = lookUp(module.default, base.slice(dot + 1));
  if (!found) throw new Fault('Runtime.HandlerNotFound', `${handler} is undefined or not exported`);
  if (typeof found !== 'function') throw new Fault('Runtime.HandlerNotFound', `${handler} is not a function`);
  return found;
}

function lookUp(from, names) {
  let at = from;
  for (const name of names.split('.')) at = at && at[name];
  return at;
}

async function loadModule(root, folder, name) {
  const file = path.resolve(root, folder, name);
  const found = ['', '.js', '.mjs', '.cjs'].map((extension) => file + extension).find(isFile);
  try {
    if (found === undefined) return await require(require.resolve(name, { paths: [root, path.join(root, folder)] }));
    if (found.endsWith('.mjs') || (found.endsWith('.js') && isModulePackage(path.dirname(found)))) {
      searchNodePath();
      return await import(require('url').pathToFileURL(found).href);
    }
    return await require(found);
  } catch (error) {
    if (error && error.code === 'MODULE_NOT_FOUND') throw new Fault('Runtime.ImportModuleError', text(error), stack(error));
    if (error instanceof SyntaxError) throw new Fault('Runtime.UserCodeSyntaxError', text(error), stack(error));
    throw error;
  }
}

function isFile(file) {
  try {
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}

function stack(error) {
  return typeof error.stack === 'string' ? error.stack : undefined;
}

// Whether the nearest package.json says that .js files are ES modules.
function isModulePackage(folder) {
  for (let at = folder; path.basename(at) !== 'node_modules'; at = path.dirname(at)) {
    const file = path.join(at, 'package.json');
    if (isFile(file)) {
      try {
        return JSON.parse(fs.readFileSync(file, 'utf8')).type === 'module';
      } catch (error) {
        console.warn(`${file} cannot be read, it will be ignored for ES module detection purposes.`, error);
        return false;
      }
    }
    if (at === path.dirname(at)) return false;
  }
  return false;
}

// Lambda's Node.js finds packages of layers from ES modules, too; a Node.js as it comes does not look at NODE_PATH for them.
function searchNodePath() {
  const folders = (process.env.NODE_PATH || '').split(path.delimiter)
    .filter((folder) => path.basename(folder) === 'node_modules' && fs.existsSync(folder));
  if (folders.length === 0) return;
  const module = require('module');
  const { pathToFileURL } = require('url');
  const parents = folders.map((folder) => pathToFileURL(path.join(path.dirname(folder), 'index.js')).href);
  if (module.registerHooks) {
    module.registerHooks({
      resolve(specifier, context, next) {
        try {
          return next(specifier, context);
        } catch (error) {
          if (error.code !== 'ERR_MODULE_NOT_FOUND' || /^[./]|^\w+:/.test(specifier)) throw error;
          for (const parentURL of parents) {
            try {
              return next(specifier, { ...context, parentURL });
            } catch { /* not in this one */ }
          }
          throw error;
        }
      },
    });
  } else if (module.register) {
    module.register(pathToFileURL(path.join(__dirname, 'node_path.mjs')).href, { data: parents });
  }
}

module.exports = { load };
