/**
 * The tables of the books in PostgreSQL, and the functions that do in one call what `steps.ts` says, line by line. They are run
 * one statement at a time.
 *
 * Each step locks the row of its group first, so the steps of a group follow each other, none sees another half done, and they
 * cannot deadlock. Time is the server's, in milliseconds, read under the lock. All that is kept is within the safe integers of
 * JavaScript; what leaves 64 bits on the way is `numeric`.
 */
import { CAUSES } from "../../books/tally.ts"

const MAX = `${Number.MAX_SAFE_INTEGER}`

export const statements: ReadonlyArray<string> = [
  // One element of each array for each limit; those of "settled" and "refunded" are by cause. What changes with every step is
  // rewritten in the page it is in, as long as there is room.
  `CREATE TABLE effect_budget_budgets (
  group_name text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  kinds text[] NOT NULL,
  maximum bigint[] NOT NULL,
  units bigint[] NOT NULL,
  millis bigint[] NOT NULL,
  granted bigint[] NOT NULL,
  available bigint[] NOT NULL,
  held bigint[] NOT NULL,
  spent bigint[] NOT NULL,
  epoch bigint[] NOT NULL,
  at bigint[] NOT NULL,
  carry bigint[] NOT NULL,
  settled bigint[] NOT NULL,
  refunded bigint[] NOT NULL,
  charged bigint NOT NULL,
  overage bigint NOT NULL,
  limits jsonb NOT NULL,
  declared jsonb NOT NULL,
  PRIMARY KEY (group_name, name)
) WITH (fillfactor = 20)`,

  // "parts" has an array for each budget: of its parts, each an array of the amount and the epochs it was taken in.
  `CREATE TABLE effect_budget_holds (
  group_name text COLLATE "C" NOT NULL,
  id text COLLATE "C" NOT NULL,
  due bigint,
  step bigint NOT NULL,
  budgets text[] NOT NULL,
  amounts bigint[] NOT NULL,
  parts jsonb NOT NULL,
  on_expiry text NOT NULL,
  progress bigint[],
  cause text,
  charges bigint[],
  overran text[],
  late boolean,
  PRIMARY KEY (group_name, id)
)`,
  // Partial, so that it is never taken for the way to an id while the table has no statistics.
  `CREATE INDEX effect_budget_holds_due ON effect_budget_holds (group_name, due) WHERE due IS NOT NULL`,

  `CREATE FUNCTION effect_budget_channel(p_group text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT 'effect_budget_' || hashtextextended(p_group, 0)
$$`,

  // A name that is too long for a notification is left out: who waits for it asks again.
  `CREATE FUNCTION effect_budget_tell(p_group text, p_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF octet_length(p_name) < 8000 THEN
    PERFORM pg_notify('effect_budget_' || hashtextextended(p_group, 0), p_name);
  END IF;
END $$`,

  `CREATE FUNCTION effect_budget_fill(b effect_budget_budgets, j integer, p_level bigint, p_at bigint, p_carry bigint)
RETURNS effect_budget_budgets LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  m_held bigint := b.held[j];
  m_available bigint := greatest(least(p_level, b.maximum[j], ${MAX} - m_held), -${MAX});
  m_spent bigint := b.spent[j];
BEGIN
  IF m_spent > ${MAX} - m_held - m_available THEN
    m_spent := greatest(0, -(m_available + m_held));
  END IF;
  b.granted[j] := m_available + m_held + m_spent;
  b.available[j] := m_available;
  b.spent[j] := m_spent;
  b.at[j] := p_at;
  b.carry[j] := CASE WHEN m_available = b.maximum[j] THEN 0 ELSE p_carry END;
  RETURN b;
END $$`,

  `CREATE FUNCTION effect_budget_refill(b effect_budget_budgets, p_now bigint)
RETURNS effect_budget_budgets LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  m_kind text;
  m_per bigint;
  m_elapsed bigint;
  m_product bigint;
  m_exact numeric;
BEGIN
  FOR j IN 1 .. cardinality(b.kinds) LOOP
    m_per := b.millis[j];
    CONTINUE WHEN m_per = 0 OR p_now = b.at[j];
    m_kind := b.kinds[j];
    m_elapsed := p_now - b.at[j];
    IF m_elapsed < 0 THEN
      IF m_kind = 'Window' THEN
        CONTINUE WHEN -m_elapsed < m_per;
        b.at[j] := floor(p_now::numeric / m_per) * m_per;
      ELSE
        CONTINUE WHEN -m_elapsed::numeric * b.units[j] < b.maximum[j]::numeric * m_per;
        b.at[j] := CASE WHEN m_kind = 'Interval' THEN b.at[j] - (m_per - 1 - m_elapsed) / m_per * m_per ELSE p_now END;
      END IF;
    ELSIF m_kind = 'Window' THEN
      CONTINUE WHEN m_elapsed < m_per;
      b.granted[j] := b.maximum[j];
      b.available[j] := b.maximum[j];
      b.held[j] := 0;
      b.spent[j] := 0;
      b.epoch[j] := b.epoch[j] + m_elapsed / m_per;
      b.at[j] := b.at[j] + m_elapsed / m_per * m_per;
    ELSIF m_kind = 'Interval' THEN
      CONTINUE WHEN m_elapsed < m_per;
      m_exact := b.available[j] + (m_elapsed / m_per)::numeric * b.units[j];
      b := effect_budget_fill(b, j, least(m_exact, ${MAX})::bigint, b.at[j] + m_elapsed / m_per * m_per, 0);
    ELSIF b.available[j] >= b.maximum[j] THEN
      b.at[j] := p_now;
      b.carry[j] := 0;
    ELSIF m_elapsed::float8 * b.units[j] < 4e18 THEN
      m_product := m_elapsed * b.units[j] + b.carry[j];
      b := effect_budget_fill(b, j, b.available[j] + m_product / m_per, p_now, m_product % m_per);
    ELSE
      m_exact := m_elapsed::numeric * b.units[j] + b.carry[j];
      b := effect_budget_fill(
        b, j, least(b.available[j] + div(m_exact, m_per), ${MAX})::bigint, p_now, mod(m_exact, m_per)::bigint
      );
    END IF;
  END LOOP;
  RETURN b;
END $$`,

  // p_part is a part of a hold: the element 0 is its amount, j the epoch of the limit j.
  `CREATE FUNCTION effect_budget_give(b effect_budget_budgets, p_amount bigint, p_part jsonb, p_actual bigint)
RETURNS effect_budget_budgets LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  m_kind text;
  m_held bigint;
  m_spent bigint;
  m_granted bigint;
  m_charged bigint;
BEGIN
  IF p_amount = 0 AND p_actual = 0 THEN
    RETURN b;
  END IF;
  FOR j IN 1 .. cardinality(b.kinds) LOOP
    CONTINUE WHEN (p_part ->> j)::bigint <> b.epoch[j];
    m_kind := b.kinds[j];
    m_held := b.held[j] - p_amount;
    b.held[j] := m_held;
    IF m_kind = 'Concurrency' THEN
      b.available[j] := b.available[j] + p_amount;
      IF b.carry[j] > 0 AND p_amount > 0 THEN
        m_charged := least(p_amount, b.carry[j]);
        b.carry[j] := b.carry[j] - m_charged;
        m_charged := CASE WHEN m_charged = p_amount THEN p_actual ELSE least(p_actual, m_charged) END;
        m_charged := least(m_charged, ${MAX} - b.granted[j]);
        b.spent[j] := b.spent[j] + m_charged;
        b.granted[j] := b.granted[j] + m_charged;
      END IF;
      CONTINUE;
    END IF;
    m_spent := b.spent[j];
    m_granted := b.granted[j];
    IF p_actual > ${MAX} - m_spent - m_held THEN
      IF m_kind = 'Unlimited' THEN
        m_spent := 0;
      ELSIF m_kind = 'Rate' OR m_kind = 'Interval' THEN
        m_charged := greatest(0, least(m_spent, m_granted));
        m_spent := m_spent - m_charged;
        m_granted := m_granted - m_charged;
      END IF;
    END IF;
    m_charged := least(p_actual, ${MAX} - m_spent - m_held + least(0, m_granted));
    m_spent := m_spent + m_charged;
    b.granted[j] := m_granted;
    b.spent[j] := m_spent;
    b.available[j] := m_granted - m_held - m_spent;
    IF m_charged < p_amount AND (m_kind = 'Rate' OR m_kind = 'Interval') THEN
      b := effect_budget_fill(b, j, b.available[j], b.at[j], b.carry[j]);
    END IF;
  END LOOP;
  RETURN b;
END $$`,

  // Parts of the same epochs are one, and epochs that are over (-1) are all the same.
  `CREATE FUNCTION effect_budget_parts(p_parts jsonb, p_amount bigint, p_epoch bigint[])
RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  m_parts jsonb := p_parts || jsonb_build_array(jsonb_build_array(p_amount) || to_jsonb(p_epoch));
  m_merged jsonb := '[]';
  m_last jsonb;
  m_part jsonb;
  m_same boolean;
BEGIN
  IF jsonb_array_length(m_parts) = 1 THEN
    RETURN m_parts;
  END IF;
  FOR k IN 0 .. jsonb_array_length(m_parts) - 1 LOOP
    m_part := m_parts -> k;
    m_same := m_last IS NOT NULL;
    FOR j IN 1 .. jsonb_array_length(m_part) - 1 LOOP
      IF (m_part ->> j)::bigint IS DISTINCT FROM p_epoch[j] THEN
        m_part := jsonb_set(m_part, ARRAY[j::text], '-1');
      END IF;
      m_same := m_same AND (m_part -> j) IS NOT DISTINCT FROM (m_last -> j);
    END LOOP;
    IF m_same THEN
      m_part := jsonb_set(m_part, '{0}', to_jsonb((m_last ->> 0)::bigint + (m_part ->> 0)::bigint));
      m_merged := m_merged - (-1);
    END IF;
    m_merged := m_merged || jsonb_build_array(m_part);
    m_last := m_part;
  END LOOP;
  RETURN m_merged;
END $$`,

  `CREATE FUNCTION effect_budget_held(p_parts jsonb) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  m_sum bigint := 0;
BEGIN
  FOR k IN 0 .. jsonb_array_length(p_parts) - 1 LOOP
    m_sum := m_sum + (p_parts -> k ->> 0)::bigint;
  END LOOP;
  RETURN m_sum;
END $$`,

  `CREATE FUNCTION effect_budget_held_each(p_parts jsonb) RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  m_held bigint[] := '{}';
BEGIN
  FOR i IN 1 .. jsonb_array_length(p_parts) LOOP
    m_held[i] := effect_budget_held(p_parts -> (i - 1));
  END LOOP;
  RETURN m_held;
END $$`,

  // Refilled; null when one of them is not there.
  `CREATE FUNCTION effect_budget_load(p_group text, p_names text[], p_now bigint)
RETURNS effect_budget_budgets[] LANGUAGE plpgsql AS $$
DECLARE
  b effect_budget_budgets;
  books effect_budget_budgets[] := '{}';
BEGIN
  FOR i IN 1 .. cardinality(p_names) LOOP
    SELECT * INTO b FROM effect_budget_budgets WHERE group_name = p_group AND name = p_names[i];
    IF NOT FOUND THEN
      RETURN NULL;
    END IF;
    books[i] := effect_budget_refill(b, p_now);
  END LOOP;
  RETURN books;
END $$`,

  `CREATE FUNCTION effect_budget_store(b effect_budget_budgets) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE effect_budget_budgets
  SET granted = b.granted, available = b.available, held = b.held, spent = b.spent, epoch = b.epoch, at = b.at,
    carry = b.carry, settled = b.settled, refunded = b.refunded, charged = b.charged, overage = b.overage
  WHERE group_name = b.group_name AND name = b.name;
END $$`,

  `CREATE FUNCTION effect_budget_cause(p_cause text) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
  SELECT array_position(ARRAY[${CAUSES.map((cause) => `'${cause}'`).join(", ")}], p_cause)
$$`,

  // Ends an open hold. What was held first is charged first; what is left of the charge goes to the latest part.
  `CREATE FUNCTION effect_budget_end(
  h effect_budget_holds, books effect_budget_budgets[], p_cause text, p_charges bigint[], p_keep bigint, p_now bigint
) RETURNS effect_budget_holds LANGUAGE plpgsql AS $$
DECLARE
  b effect_budget_budgets;
  m_cause integer := effect_budget_cause(p_cause);
  m_overran text[] := '{}';
  m_parts jsonb;
  m_last integer;
  m_rest bigint;
  m_held bigint;
  m_amount bigint;
  m_piece bigint;
BEGIN
  FOR i IN 1 .. cardinality(h.budgets) LOOP
    b := books[i];
    m_parts := h.parts -> (i - 1);
    m_last := jsonb_array_length(m_parts) - 1;
    m_rest := p_charges[i];
    m_held := 0;
    FOR k IN 0 .. m_last LOOP
      m_amount := (m_parts -> k ->> 0)::bigint;
      m_piece := CASE WHEN k = m_last THEN m_rest ELSE least(m_rest, m_amount) END;
      m_rest := m_rest - m_piece;
      m_held := m_held + m_amount;
      b := effect_budget_give(b, m_amount, m_parts -> k, m_piece);
    END LOOP;
    m_rest := p_charges[i] - m_held;
    b.settled[m_cause] := b.settled[m_cause] + 1;
    b.refunded[m_cause] := least(b.refunded[m_cause] + greatest(0, -m_rest), ${MAX});
    b.charged := least(b.charged + p_charges[i], ${MAX});
    b.overage := least(b.overage + greatest(0, m_rest), ${MAX});
    PERFORM effect_budget_store(b);
    IF m_rest > 0 AND 0 > ANY (b.available) THEN
      m_overran := m_overran || b.name;
    END IF;
    IF m_held > 0 THEN
      PERFORM effect_budget_tell(h.group_name, b.name);
    END IF;
  END LOOP;
  h.cause := p_cause;
  h.charges := p_charges;
  h.overran := m_overran;
  h.late := false;
  h.due := p_now + p_keep;
  UPDATE effect_budget_holds
  SET cause = h.cause, charges = h.charges, overran = h.overran, late = h.late, due = h.due
  WHERE group_name = h.group_name AND id = h.id;
  RETURN h;
END $$`,

  // Ends what has expired, and forgets what ended long ago.
  `CREATE FUNCTION effect_budget_sweep(p_group text, p_keep bigint, p_now bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  h effect_budget_holds;
  books effect_budget_budgets[];
  m_charges bigint[];
BEGIN
  FOR h IN
    SELECT * FROM effect_budget_holds WHERE group_name = p_group AND due <= p_now ORDER BY due, id LIMIT 1000
  LOOP
    books := CASE WHEN h.cause IS NULL THEN effect_budget_load(p_group, h.budgets, p_now) END;
    IF books IS NULL THEN
      DELETE FROM effect_budget_holds WHERE group_name = p_group AND id = h.id;
      CONTINUE;
    END IF;
    m_charges := h.progress;
    IF h.on_expiry = 'hold' THEN
      m_charges := effect_budget_held_each(h.parts);
    ELSIF m_charges IS NULL THEN
      m_charges := array_fill(0::bigint, ARRAY[cardinality(h.budgets)]);
    END IF;
    h := effect_budget_end(h, books, 'expired', m_charges, p_keep, p_now);
  END LOOP;
END $$`,

  // How every step begins. Answers the time; p_now is only given by tests.
  `CREATE FUNCTION effect_budget_begin(p_group text, p_keep bigint, p_now bigint) RETURNS bigint LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
  m_now bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(p_group, 0));
  m_now := coalesce(p_now, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint);
  IF EXISTS (SELECT FROM effect_budget_holds WHERE group_name = p_group AND due <= m_now) THEN
    PERFORM effect_budget_sweep(p_group, p_keep, m_now);
  END IF;
  RETURN m_now;
END $$`,

  `CREATE FUNCTION effect_budget_show(b effect_budget_budgets) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
  SELECT to_jsonb(b) - 'group_name' - 'name'
$$`,

  `CREATE FUNCTION effect_budget_denied(books effect_budget_budgets[], p_parts jsonb, p_now bigint)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  b effect_budget_budgets;
  m_budgets jsonb := '[]';
  m_own jsonb := '[]';
  m_of bigint[];
BEGIN
  FOR i IN 1 .. cardinality(books) LOOP
    b := books[i];
    m_budgets := m_budgets || jsonb_build_array(effect_budget_show(b));
    m_of := array_fill(0::bigint, ARRAY[cardinality(b.kinds)]);
    FOR k IN 0 .. coalesce(jsonb_array_length(p_parts -> (i - 1)), 0) - 1 LOOP
      FOR j IN 1 .. cardinality(b.kinds) LOOP
        IF (p_parts -> (i - 1) -> k ->> j)::bigint = b.epoch[j] THEN
          m_of[j] := m_of[j] + (p_parts -> (i - 1) -> k ->> 0)::bigint;
        END IF;
      END LOOP;
    END LOOP;
    m_own := m_own || jsonb_build_array(to_jsonb(m_of));
  END LOOP;
  RETURN jsonb_build_object('_tag', 'Denied', 'now', p_now, 'budgets', m_budgets, 'own', m_own);
END $$`,

  `CREATE FUNCTION effect_budget_take(
  p_group text, p_now bigint, p_id text, p_step bigint, p_budgets text[], p_amounts bigint[], p_up_to bigint[],
  p_expires_after bigint, p_on_expiry text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  h effect_budget_holds;
  b effect_budget_budgets;
  books effect_budget_budgets[];
  m_known boolean;
  m_amount bigint;
  m_up_to bigint;
  m_parts jsonb := '[]';
BEGIN
  SELECT * INTO h FROM effect_budget_holds WHERE group_name = p_group AND id = p_id;
  m_known := FOUND;
  IF m_known AND h.cause IS NOT NULL OR NOT m_known AND p_step > 0 THEN
    RETURN '{"_tag":"Ended"}';
  END IF;
  IF m_known AND p_step <= h.step THEN
    RETURN '{"_tag":"Held","amounts":[' || array_to_string(h.amounts, ',') || ']}';
  END IF;
  books := effect_budget_load(p_group, p_budgets, p_now);
  IF books IS NULL THEN
    RETURN '{"_tag":"Unopened"}';
  END IF;
  FOR i IN 1 .. cardinality(p_budgets) LOOP
    b := books[i];
    m_amount := p_amounts[i];
    FOR j IN 1 .. cardinality(b.kinds) LOOP
      IF m_amount > b.available[j] AND m_amount > 0
        AND (b.kinds[j] <> 'Unlimited' OR m_amount > ${MAX} - b.held[j]) THEN
        RETURN effect_budget_denied(books, h.parts, p_now);
      END IF;
    END LOOP;
  END LOOP;
  FOR i IN 1 .. cardinality(p_budgets) LOOP
    b := books[i];
    m_amount := p_amounts[i];
    m_up_to := p_up_to[i];
    IF m_up_to IS NOT NULL THEN
      FOR j IN 1 .. cardinality(b.kinds) LOOP
        m_up_to := least(
          m_up_to,
          CASE WHEN b.kinds[j] = 'Unlimited' THEN ${MAX} - b.held[j] ELSE greatest(0, b.available[j]) END
        );
      END LOOP;
      m_amount := greatest(m_amount, m_up_to);
      p_amounts[i] := m_amount;
    END IF;
    IF m_amount > 0 THEN
      FOR j IN 1 .. cardinality(b.kinds) LOOP
        b.held[j] := b.held[j] + m_amount;
        IF m_amount > b.available[j] THEN
          b.spent[j] := 0;
        END IF;
        b.available[j] := b.granted[j] - b.held[j] - b.spent[j];
      END LOOP;
    END IF;
    PERFORM effect_budget_store(b);
    m_parts := m_parts || jsonb_build_array(effect_budget_parts(coalesce(h.parts -> (i - 1), '[]'), m_amount, b.epoch));
  END LOOP;
  IF m_known THEN
    UPDATE effect_budget_holds
    SET due = p_now + p_expires_after, step = p_step, budgets = p_budgets, amounts = p_amounts, parts = m_parts,
      on_expiry = p_on_expiry
    WHERE group_name = p_group AND id = p_id;
  ELSE
    INSERT INTO effect_budget_holds (group_name, id, due, step, budgets, amounts, parts, on_expiry)
    VALUES (p_group, p_id, p_now + p_expires_after, p_step, p_budgets, p_amounts, m_parts, p_on_expiry);
  END IF;
  RETURN '{"_tag":"Held","amounts":[' || array_to_string(p_amounts, ',') || ']}';
END $$`,

  `CREATE FUNCTION effect_budget_settled(h effect_budget_holds) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN '{"_tag":"Settled","cause":"' || h.cause || '","charges":[' || array_to_string(h.charges, ',') || '],"overran":'
    || CASE WHEN cardinality(h.overran) = 0 THEN '[]' ELSE to_jsonb(h.overran)::text END
    || ',"late":' || h.late::text || '}';
END $$`,

  `CREATE FUNCTION effect_budget_charge(
  p_group text, p_keep bigint, p_now bigint, p_id text, p_budgets text[], p_amounts bigint[]
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  h effect_budget_holds;
  m_answer text;
BEGIN
  SELECT * INTO h FROM effect_budget_holds WHERE group_name = p_group AND id = p_id;
  IF FOUND AND h.cause IS NOT NULL THEN
    RETURN effect_budget_settled(h);
  END IF;
  m_answer := effect_budget_take(p_group, p_now, p_id, 0, p_budgets, p_amounts, NULL, 0, 'hold');
  IF NOT starts_with(m_answer, '{"_tag":"Held"') THEN
    RETURN m_answer;
  END IF;
  SELECT * INTO h FROM effect_budget_holds WHERE group_name = p_group AND id = p_id;
  RETURN effect_budget_settled(
    effect_budget_end(h, effect_budget_load(p_group, h.budgets, p_now), 'committed', h.amounts, p_keep, p_now)
  );
END $$`,

  `CREATE FUNCTION effect_budget_reduce(
  p_group text, p_now bigint, p_id text, p_step bigint, p_amounts bigint[]
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  h effect_budget_holds;
  b effect_budget_budgets;
  books effect_budget_budgets[];
  m_parts jsonb := '[]';
  m_of jsonb;
  m_left jsonb;
  m_last integer;
  m_rest bigint;
  m_amount bigint;
  m_given bigint;
BEGIN
  SELECT * INTO h FROM effect_budget_holds WHERE group_name = p_group AND id = p_id;
  IF NOT FOUND OR h.cause IS NOT NULL OR p_step <= h.step THEN
    RETURN 'null';
  END IF;
  books := effect_budget_load(p_group, h.budgets, p_now);
  IF books IS NULL THEN
    RETURN 'null';
  END IF;
  FOR i IN 1 .. cardinality(h.budgets) LOOP
    b := books[i];
    m_of := h.parts -> (i - 1);
    m_last := jsonb_array_length(m_of) - 1;
    m_left := '[]';
    m_rest := p_amounts[i];
    FOR k IN 0 .. m_last LOOP
      m_amount := (m_of -> k ->> 0)::bigint;
      m_given := least(m_rest, m_amount);
      m_rest := m_rest - m_given;
      b := effect_budget_give(b, m_given, m_of -> k, 0);
      -- The latest part stays, for what may be charged to it.
      IF m_amount > m_given OR k = m_last THEN
        m_left := m_left || jsonb_build_array(jsonb_set(m_of -> k, '{0}', to_jsonb(m_amount - m_given)));
      END IF;
    END LOOP;
    m_parts := m_parts || jsonb_build_array(m_left);
    PERFORM effect_budget_store(b);
    IF p_amounts[i] > 0 THEN
      PERFORM effect_budget_tell(p_group, b.name);
    END IF;
  END LOOP;
  UPDATE effect_budget_holds SET step = p_step, parts = m_parts WHERE group_name = p_group AND id = p_id;
  RETURN 'null';
END $$`,

  `CREATE FUNCTION effect_budget_settle(
  p_group text, p_keep bigint, p_now bigint, p_id text, p_cause text, p_charges bigint[], p_budgets text[],
  p_amounts bigint[]
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  h effect_budget_holds;
  b effect_budget_budgets;
  books effect_budget_budgets[];
  m_known boolean;
  m_cause integer;
  m_before bigint;
  m_more bigint;
  m_expected bigint[];
  m_parts jsonb;
BEGIN
  SELECT * INTO h FROM effect_budget_holds WHERE group_name = p_group AND id = p_id;
  m_known := FOUND;
  IF m_known AND h.cause IS NOT NULL AND (h.cause <> 'expired' OR h.late) THEN
    RETURN effect_budget_settled(h);
  END IF;
  books := effect_budget_load(p_group, CASE WHEN m_known THEN h.budgets ELSE p_budgets END, p_now);
  IF books IS NULL THEN
    RETURN '{"_tag":"Unopened"}';
  END IF;
  IF m_known AND h.cause IS NULL THEN
    RETURN effect_budget_settled(
      effect_budget_end(h, books, p_cause, coalesce(p_charges, effect_budget_held_each(h.parts)), p_keep, p_now)
    );
  END IF;
  -- It comes late: what was not charged when it expired is charged now, to the epochs that it was held in as far as they go on.
  IF NOT m_known THEN
    m_parts := '[]';
    FOR i IN 1 .. cardinality(p_budgets) LOOP
      b := books[i];
      m_parts := m_parts || jsonb_build_array(effect_budget_parts('[]', p_amounts[i], b.epoch));
    END LOOP;
    h := ROW (p_group, p_id, p_now, 0, p_budgets, p_amounts, m_parts, 'hold', NULL, NULL, NULL, NULL, NULL);
  END IF;
  m_cause := effect_budget_cause(p_cause);
  m_expected := coalesce(p_charges, effect_budget_held_each(h.parts));
  h.overran := '{}';
  FOR i IN 1 .. cardinality(h.budgets) LOOP
    m_before := coalesce(h.charges[i], 0);
    m_expected[i] := greatest(m_expected[i], m_before);
    m_more := m_expected[i] - m_before;
    b := effect_budget_give(books[i], 0, h.parts -> (i - 1) -> -1, m_more);
    b.charged := least(b.charged + m_more, ${MAX});
    b.overage := least(b.overage + m_more, ${MAX});
    -- One that expired was counted then.
    IF NOT m_known THEN
      b.settled[m_cause] := b.settled[m_cause] + 1;
    END IF;
    PERFORM effect_budget_store(b);
    IF m_more > 0 AND 0 > ANY (b.available) THEN
      h.overran := h.overran || b.name;
    END IF;
  END LOOP;
  h.cause := p_cause;
  h.charges := m_expected;
  h.late := true;
  h.due := p_now + p_keep;
  IF m_known THEN
    UPDATE effect_budget_holds
    SET cause = h.cause, charges = h.charges, overran = h.overran, late = h.late, due = h.due
    WHERE group_name = p_group AND id = p_id;
  ELSE
    INSERT INTO effect_budget_holds SELECT h.*;
  END IF;
  RETURN effect_budget_settled(h);
END $$`,

  // Several steps, one after the other. Of each: what to do, the id of the hold, its step, the budgets and amounts (array
  // literals), then either the "up to", the word for what happens when it expires, and the time until then, or the charges and
  // the cause.
  `CREATE FUNCTION effect_budget_steps(
  p_group text, p_keep bigint, p_now bigint, p_what text[], p_ids text[], p_steps bigint[], p_budgets text[],
  p_amounts text[], p_more text[], p_words text[], p_expire_after bigint[]
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  m_now bigint := effect_budget_begin(p_group, p_keep, p_now);
  m_answers text[];
BEGIN
  FOR i IN 1 .. cardinality(p_what) LOOP
    m_answers[i] := CASE p_what[i]
      WHEN 'hold' THEN effect_budget_take(
        p_group, m_now, p_ids[i], p_steps[i], p_budgets[i]::text[], p_amounts[i]::bigint[], p_more[i]::bigint[],
        p_expire_after[i], p_words[i]
      )
      WHEN 'settle' THEN effect_budget_settle(
        p_group, p_keep, m_now, p_ids[i], p_words[i], p_more[i]::bigint[], p_budgets[i]::text[], p_amounts[i]::bigint[]
      )
      WHEN 'charge' THEN effect_budget_charge(
        p_group, p_keep, m_now, p_ids[i], p_budgets[i]::text[], p_amounts[i]::bigint[]
      )
      WHEN 'reduce' THEN effect_budget_reduce(p_group, m_now, p_ids[i], p_steps[i], p_amounts[i]::bigint[])
    END;
  END LOOP;
  RETURN '[' || array_to_string(m_answers, ',') || ']';
END $$`,

  `CREATE FUNCTION effect_budget_renew(
  p_group text, p_keep bigint, p_now bigint, p_ids text[], p_progress text[], p_expires_after bigint
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  m_now bigint := effect_budget_begin(p_group, p_keep, p_now);
  m_gone text[] := '{}';
BEGIN
  FOR i IN 1 .. cardinality(p_ids) LOOP
    UPDATE effect_budget_holds
    SET due = m_now + p_expires_after, progress = coalesce(p_progress[i]::bigint[], progress)
    WHERE group_name = p_group AND id = p_ids[i] AND cause IS NULL;
    IF NOT FOUND THEN
      m_gone := m_gone || p_ids[i];
    END IF;
  END LOOP;
  RETURN to_jsonb(m_gone);
END $$`,

  `CREATE FUNCTION effect_budget_read(p_group text, p_keep bigint, p_now bigint, p_budgets text[])
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  m_now bigint := effect_budget_begin(p_group, p_keep, p_now);
  b effect_budget_budgets;
  m_budgets jsonb := '[]';
BEGIN
  FOR i IN 1 .. cardinality(p_budgets) LOOP
    SELECT * INTO b FROM effect_budget_budgets WHERE group_name = p_group AND name = p_budgets[i];
    m_budgets := m_budgets || jsonb_build_array(
      CASE WHEN FOUND THEN effect_budget_show(effect_budget_refill(b, m_now)) END
    );
  END LOOP;
  RETURN jsonb_build_object('now', m_now, 'budgets', m_budgets);
END $$`,

  // The group is locked by the read that came before, in the same transaction.
  `CREATE FUNCTION effect_budget_write(p_group text, p_budgets text[], p_books jsonb)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  b effect_budget_budgets;
BEGIN
  FOR i IN 1 .. cardinality(p_budgets) LOOP
    b := jsonb_populate_record(NULL::effect_budget_budgets, p_books -> (i - 1));
    b.group_name := p_group;
    b.name := p_budgets[i];
    DELETE FROM effect_budget_budgets WHERE group_name = p_group AND name = b.name;
    INSERT INTO effect_budget_budgets SELECT b.*;
    PERFORM effect_budget_tell(p_group, b.name);
  END LOOP;
  RETURN 'null';
END $$`
]
