import { describe, expect, it } from 'vitest';
import type { ComboState } from './combobox';
import { comboKey } from './combobox';

const CLOSED: ComboState = { open: false, active: -1, length: 3, chosen: -1, typed: false };
const press = (key: string, state: Partial<ComboState> = {}, altKey = false): ReturnType<typeof comboKey> => comboKey({ key, altKey }, { ...CLOSED, ...state });
const open = { open: true };

describe('the keys of a combobox', () => {
  it('open the list by arrows, at what is chosen, else at its beginning or end', () => {
    expect([press('ArrowDown'), press('ArrowUp')]).toEqual([0, 2]);
    expect([press('ArrowDown', { chosen: 1 }), press('ArrowUp', { chosen: 1 })]).toEqual([1, 1]);
    expect(press('ArrowDown', {}, true)).toBe(-1);
    expect(press('ArrowDown', { length: 0 })).toBe('hold');
  });
  it('go round in the open list', () => {
    expect([press('ArrowDown', open), press('ArrowDown', { ...open, active: 2 })]).toEqual([0, 0]);
    expect([press('ArrowUp', open), press('ArrowUp', { ...open, active: 0 }), press('ArrowUp', { ...open, active: 2 })]).toEqual([2, 2, 1]);
    expect(press('ArrowUp', { ...open, active: 1 }, true)).toBe('close');
  });
  it('send no form while the list is open', () => {
    expect(press('Enter')).toBeUndefined();
    expect(press('Enter', { ...open, active: 1 })).toBe('choose');
    expect(press('Enter', open)).toBe('close');
    expect(press('Enter', { ...open, typed: true, length: 0 })).toBe('hold');
  });
  it('close the list before the dialog that it stands in', () => {
    expect(press('Escape', open)).toBe('close');
    expect(press('Escape', { ...open, typed: true, length: 0 })).toBe('close');
    expect(press('Escape')).toBeUndefined();
  });
  it('leave the text and other fields alone', () => {
    expect([press('Tab'), press('Tab', open), press('Tab', { ...open, active: 0 })]).toEqual([undefined, undefined, 'choose']);
    expect([press('a', open), press('Home', open), press('ArrowLeft', open)]).toEqual([undefined, undefined, undefined]);
  });
});
