// Every command line that the console can show, read out of its source: what `cli(…)` is called with, with each condition both
// ways, and lines that are written out. Words that are known only at run time are holes.
import ts from 'typescript';

/** Stands in a word for what is known only at run time. */
export const HOLE = '\u0000';

export interface CommandLine {
  /** `file:line`, for messages. */
  place: string;
  /** After `fleetctl`. */
  words: string[];
}

/** One way through the conditions of a line: which alternative is taken, by what decides it. */
type Choices = ReadonlyMap<string, number>;
type Names = ReadonlyMap<ts.Symbol, { node: ts.Expression; names: Names }>;

/** Reads expressions as words, and notes on the way what there is to choose. */
class Reader {
  /** How many alternatives each decision has. */
  readonly decisions = new Map<string, number>();

  constructor(
    private readonly checker: ts.TypeChecker,
    private readonly choices: Choices,
  ) {}

  private choose(key: string, alternatives: number): number {
    this.decisions.set(key, alternatives);
    return Math.min(this.choices.get(key) ?? 0, alternatives - 1);
  }

  /** The words that an expression is, as one argument or spread into many. */
  words(node: ts.Expression, names: Names): string[] {
    const plain = bare(node);
    if (ts.isSpreadElement(plain)) return this.words(plain.expression, names);
    if (ts.isStringLiteralLike(plain) || ts.isNumericLiteral(plain)) return [plain.text];
    if (ts.isArrayLiteralExpression(plain)) return plain.elements.flatMap((element) => this.words(element, names));
    if (ts.isTemplateExpression(plain)) return [plain.head.text + plain.templateSpans.map((span) => this.inside(span.expression, names) + span.literal.text).join('')];
    if (ts.isConditionalExpression(plain)) return this.words(this.choose(plain.condition.getText(), 2) === 0 ? plain.whenTrue : plain.whenFalse, names);
    if (ts.isBinaryExpression(plain)) return this.either(plain, names);
    if (ts.isIdentifier(plain)) return this.named(plain, names);
    if (ts.isCallExpression(plain)) return this.called(plain, names);
    return this.value(plain);
  }

  /** Inside of a word. */
  private inside(node: ts.Expression, names: Names): string {
    const [word = HOLE] = this.words(node, names);
    return word;
  }

  private either(node: ts.BinaryExpression, names: Names): string[] {
    switch (node.operatorToken.kind) {
      case ts.SyntaxKind.AmpersandAmpersandToken:
        return this.choose(node.left.getText(), 2) === 0 ? this.words(node.right, names) : [];
      case ts.SyntaxKind.QuestionQuestionToken:
      case ts.SyntaxKind.BarBarToken:
        return this.words(node.left, names);
      default:
        return this.value(node);
    }
  }

  /** A constant is what it was made of, with what is pushed onto it later; a parameter what it was called with. */
  private named(node: ts.Identifier, names: Names): string[] {
    const symbol = this.symbol(node);
    if (symbol === undefined) return this.value(node);
    const given = names.get(symbol);
    if (given !== undefined) return this.words(given.node, given.names);
    const declaration = symbol.valueDeclaration;
    if (declaration === undefined || !ts.isVariableDeclaration(declaration) || declaration.initializer === undefined) return this.value(node);
    const made = bare(declaration.initializer);
    if (!ts.isArrayLiteralExpression(made) && !ts.isConditionalExpression(made) && !ts.isStringLiteralLike(made)) return this.value(node);
    return [...this.words(made, names), ...this.pushed(symbol, declaration, names)];
  }

  private pushed(symbol: ts.Symbol, declaration: ts.Node, names: Names): string[] {
    const found: string[] = [];
    const scope = ts.findAncestor(declaration, ts.isBlock) ?? declaration.getSourceFile();
    for (const push of calls(scope)) {
      if (!ts.isPropertyAccessExpression(push.expression) || push.expression.name.text !== 'push') continue;
      if (!ts.isIdentifier(push.expression.expression) || this.symbol(push.expression.expression) !== symbol) continue;
      const helper = ts.findAncestor(push, (each) => each === scope || ts.isArrowFunction(each));
      const owner = helper !== undefined && ts.isArrowFunction(helper) && ts.isVariableDeclaration(helper.parent) && ts.isIdentifier(helper.parent.name) ? this.symbol(helper.parent.name) : undefined;
      const uses = owner === undefined ? [undefined] : calls(scope).filter((each) => ts.isIdentifier(each.expression) && this.symbol(each.expression) === owner);
      for (const use of uses) {
        const bound = use === undefined || helper === undefined || !ts.isArrowFunction(helper) ? names : this.bind(helper, use, names);
        if (this.choose(`${(use ?? push).getText()} ${(use ?? push).pos}`, 2) === 1) found.push(...push.arguments.flatMap((argument) => this.words(argument, bound)));
      }
    }
    return found;
  }

  /** A list that is made word by word, a function of the console's own that gives words, or a value. */
  private called(node: ts.CallExpression, names: Names): string[] {
    if (ts.isPropertyAccessExpression(node.expression)) {
      const [each] = node.arguments;
      if (/^(flatMap|map)$/.test(node.expression.name.text) && each !== undefined && ts.isArrowFunction(each) && ts.isExpression(each.body)) {
        const body = each.body;
        return Array.from({ length: this.choose(node.getText(), 3) }, () => this.words(body, names)).flat();
      }
      return this.value(node);
    }
    const made = ts.isIdentifier(node.expression) ? this.body(node.expression) : undefined;
    if (made === undefined) return this.value(node);
    return this.words(made.body, this.bind(made.of, node, names));
  }

  private body(name: ts.Identifier): { of: ts.SignatureDeclaration; body: ts.Expression } | undefined {
    const declaration = this.symbol(name)?.valueDeclaration;
    const made = declaration !== undefined && ts.isVariableDeclaration(declaration) ? declaration.initializer : declaration;
    if (made === undefined || !(ts.isArrowFunction(made) || ts.isFunctionDeclaration(made)) || made.body === undefined) return undefined;
    if (ts.isExpression(made.body)) return { of: made, body: made.body };
    const [first, ...more] = made.body.statements;
    return first !== undefined && more.length === 0 && ts.isReturnStatement(first) && first.expression !== undefined ? { of: made, body: first.expression } : undefined;
  }

  private bind(of: ts.SignatureDeclaration, call: ts.CallExpression, names: Names): Names {
    const bound = new Map(names);
    of.parameters.forEach((parameter, index) => {
      const given = call.arguments[index];
      const symbol = ts.isIdentifier(parameter.name) ? this.symbol(parameter.name) : undefined;
      if (symbol !== undefined && given !== undefined) bound.set(symbol, { node: given, names });
    });
    return bound;
  }

  /** One of a few words where the type says which; else a hole. What is a list without a shape cannot be read. */
  private value(node: ts.Expression): string[] {
    const type = this.checker.getTypeAtLocation(node);
    const parts = (type.isUnion() ? type.types : [type]).filter((part) => (part.flags & (ts.TypeFlags.Undefined | ts.TypeFlags.Null)) === 0);
    if (parts.some((part) => this.checker.isArrayLikeType(part))) {
      throw new Error(`${place(node)}: the words of \`${node.getText()}\` cannot be read; write them in the call of cli, or extend scripts/command-lines.ts`);
    }
    if (parts.length === 0 || !parts.every((part) => part.isStringLiteral())) return [HOLE];
    const part = parts[this.choose(node.getText(), parts.length)];
    return part?.isStringLiteral() === true ? [part.value] : [HOLE];
  }

  private symbol(node: ts.Identifier): ts.Symbol | undefined {
    const symbol = this.checker.getSymbolAtLocation(node);
    return symbol !== undefined && (symbol.flags & ts.SymbolFlags.Alias) !== 0 ? this.checker.getAliasedSymbol(symbol) : symbol;
  }
}

/** Without what only types and parentheses add. */
function bare(node: ts.Expression): ts.Expression {
  return ts.isParenthesizedExpression(node) || ts.isAsExpression(node) || ts.isSatisfiesExpression(node) || ts.isNonNullExpression(node) ? bare(node.expression) : node;
}

function calls(scope: ts.Node): ts.CallExpression[] {
  const found: ts.CallExpression[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node)) found.push(node);
    ts.forEachChild(node, visit);
  };
  visit(scope);
  return found;
}

function place(node: ts.Node): string {
  const file = node.getSourceFile();
  return `${file.fileName.replace(/^.*\/src\//, 'src/')}:${file.getLineAndCharacterOfPosition(node.getStart()).line + 1}`;
}

/** A written line's words, up to where another command begins. */
function split(text: string): string[] {
  return (/^[^|;]*/.exec(text)?.[0] ?? '').trim().split(/\s+/).filter((word) => word !== '');
}

/** All ways of one call: everything left as it comes, each decision turned once, and everything turned. */
function ways(checker: ts.TypeChecker, call: ts.CallExpression): string[][] {
  const read = (choices: Choices): { words: string[]; decisions: Map<string, number> } => {
    const reader = new Reader(checker, choices);
    return { words: call.arguments.flatMap((argument) => reader.words(argument, new Map())), decisions: reader.decisions };
  };
  const tried = new Map<string, string[]>();
  const waiting: Choices[] = [new Map()];
  const decisions = new Map<string, number>();
  const seen = new Set<string>();
  const turn = (known: Map<string, number>): void => {
    for (const [key, alternatives] of known) {
      if (decisions.has(key)) continue;
      decisions.set(key, alternatives);
      for (let index = 1; index < alternatives; index += 1) {
        waiting.push(new Map([[key, index]]));
        waiting.push(new Map([...decisions].map(([each, most]) => [each, each === key ? index : most - 1])));
      }
    }
  };
  for (let choices = waiting.shift(); choices !== undefined; choices = waiting.shift()) {
    const key = JSON.stringify([...choices].sort());
    if (seen.has(key)) continue;
    seen.add(key);
    const { words, decisions: known } = read(choices);
    tried.set(words.join(' '), words);
    turn(known);
  }
  // What stands around the call in a longer line is part of its command.
  const span = call.parent;
  const after = ts.isTemplateSpan(span) ? split(span.literal.text) : [];
  return [...tried.values()].map((words) => [...words, ...after]);
}

/** Of a program: lines to be carried out, and commands that sentences name. */
export function commandLines(program: ts.Program): { lines: CommandLine[]; mentions: CommandLine[] } {
  const checker = program.getTypeChecker();
  const lines: CommandLine[] = [];
  const mentions: CommandLine[] = [];
  const written = (node: ts.Node, text: string): void => {
    for (const { index } of text.matchAll(/fleetctl (?=\S)/g)) {
      const begins = ts.isJsxText(node) ? false : index === 0 || text.slice(0, index).endsWith('| ');
      (begins ? lines : mentions).push({ place: place(node), words: split(text.slice(index + 'fleetctl '.length)) });
    }
  };
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node) && ts.isIdentifier(node.expression) && node.expression.text === 'cli') {
      lines.push(...ways(checker, node).map((words) => ({ place: place(node), words })));
    }
    if (ts.isStringLiteralLike(node) || ts.isTemplateHead(node) || ts.isTemplateMiddleOrTemplateTail(node)) written(node, node.text);
    if (ts.isJsxText(node)) written(node, node.text.trim());
    ts.forEachChild(node, visit);
  };
  for (const file of program.getSourceFiles()) if (!file.isDeclarationFile && /\/src\/(?!.*\.test\.)/.test(file.fileName)) visit(file);
  return { lines, mentions };
}
