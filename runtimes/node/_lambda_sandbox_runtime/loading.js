'use strict';
// Finds the handler: `module.function`, `folder/module.function`, `module.object.function`.

const fs = require('fs');
const { createRequire } = require('module');
const path = require('path');
const { pathToFileURL } = require('url');
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
  const module = await loadModule(root, folder, base.slice(0, dot), legacy);
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

async function loadModule(root, folder, name, legacy) {
  const file = path.resolve(root, folder, name);
  const found = ['', '.js', '.mjs', '.cjs'].map((extension) => file + extension).find(isFile);
  const require = createRequire(process.argv[1]); // so that "Require stack" names one file of this runtime, as on Lambda
  try {
    searchNodePath();
    if (found === undefined) {
      // Until Node.js 22 a folder with an index.js is a module, too.
      if (legacy && fs.existsSync(path.join(file, 'index.js'))) return await require(file);
      return await require(require.resolve(name, { paths: [root, path.join(root, folder)] }));
    }
    if (found.endsWith('.mjs') || (found.endsWith('.js') && isModulePackage(path.dirname(found)))) {
      return await import(pathToFileURL(found).href);
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

// Lambda's Node.js finds packages of layers by import, too; a Node.js as it comes does not look at NODE_PATH for them.
function searchNodePath() {
  const own = [process.env.LAMBDA_RUNTIME_DIR, process.env.LAMBDA_TASK_ROOT]; // there is nothing to find by that way
  const folders = (process.env.NODE_PATH || '').split(path.delimiter)
    .filter((folder) => folder && !own.includes(folder) && fs.existsSync(folder));
  if (folders.length === 0) return;
  const module = require('module');
  if (module.registerHooks) {
    module.registerHooks({
      resolve(specifier, context, next) {
        try {
          return next(specifier, context);
        } catch (error) {
          for (const [name, where] of elsewhere(specifier, error, folders)) {
            try {
              return next(name, { ...context, ...where });
            } catch { /* not in this one */ }
          }
          throw error;
        }
      },
    });
  } else if (module.register) {
    module.register(pathToFileURL(path.join(__dirname, 'node_path.mjs')).href, { data: folders });
  }
}

// Where else to look for a package: first as for an import from beside each node_modules, then as require() finds it.
function* elsewhere(specifier, error, folders) {
  if (error.code !== 'ERR_MODULE_NOT_FOUND' || /^[./]|^\w+:/.test(specifier)) return;
  for (const folder of folders) {
    if (path.basename(folder) === 'node_modules') {
      yield [specifier, { parentURL: pathToFileURL(path.join(path.dirname(folder), 'index.js')).href }];
    }
  }
  try {
    yield [pathToFileURL(createRequire(__filename).resolve(specifier)).href, {}];
  } catch { /* nowhere */ }
}

module.exports = { elsewhere, load };
