/**
 * The steps of `../steps.ts` as a script. A number is a whole one of at most 2^53 - 1 in size, which Lua's doubles hold exactly; where
 * a product would leave them, it is added up bit by bit. Numbers are kept and sent as decimals: `tostring` and `..` would
 * round them to 14 digits.
 *
 * Records (see `./records.ts`): a budget is a line of counts, a line of its declared limits, and a line for each ledger; a hold
 * is a line of words, beginning with `o` while it is open. How it ended is a line that begins with the cause: in a key that Redis
 * itself forgets in time; or in place of the hold if it expired, since nobody has named that key then.
 *
 * Nothing is undone when a command of a script fails. A server that is full or read-only refuses the first one that would take
 * memory, so that has to be the first that writes.
 */
import * as Redis from "effect/persistence/Redis"
import { CAUSES } from "../../books/tally.ts"
import { COUNTS } from "./records.ts"

/** The position of a cause in the records. */
const cause = (name: (typeof CAUSES)[number]): number => CAUSES.indexOf(name) + 1

/** For how long a change that others keep getting ahead of may shut them out, in milliseconds. */
const GATE = 250

/**
 * At most so many expired holds are ended at once, which keeps the server from everything else meanwhile; and so many arguments, an
 * even number, fit into one command of a script.
 */
const SWEPT = 1_000

/** The clock, and the books of one limit (`src/Ledger.ts`), which are changed in place. */
const ledger = String.raw`
local KEYS, ARGV = KEYS, ARGV
local BOOKS, HOLDS, DUE = KEYS[1], KEYS[2], KEYS[3]
local call = redis.call
local floor, min, max = math.floor, math.min, math.max
local format, match, gmatch, sub, concat = string.format, string.match, string.gmatch, string.sub, table.concat
local MAX = 9007199254740991

local now, keep = tonumber(ARGV[1]), tonumber(ARGV[2])
if not now then
  local time = call("TIME")
  now = time[1] * 1000 + floor(time[2] / 1000)
end
local first = call("ZRANGE", DUE, "0", "0", "WITHSCORES")
local isDue = first[1] and tonumber(first[2]) <= now

local function int(n) return format("%.0f", n) end

-- a * b + c = quotient * m + rest. Answers the level raised by the quotient, at most MAX, and the rest.
local function raise(level, a, b, c, m)
  -- The quotient is high * 2^30 + low; high stops at 2^30.
  local high, low, rest = 0, 0, 0
  local function add(h, l, r)
    if rest >= m - r then
      rest, l = rest - (m - r), l + 1
    else
      rest = rest + r
    end
    low = low + l
    high = min(high + h + floor(low / 1073741824), 1073741824)
    low = low % 1073741824
  end
  local function parts(n)
    local quotient = floor(n / m)
    return floor(quotient / 1073741824), quotient % 1073741824, n % m
  end
  local h, l, r = parts(b)
  for bit = 52, 0, -1 do
    add(high, low, rest)
    if floor(a / 2 ^ bit) % 2 == 1 then add(h, l, r) end
  end
  add(parts(c))
  -- From 2^54 on, the sum is above MAX with any level; below, it is exact or above MAX.
  if high >= 16777216 then return MAX, rest end
  return min(level + high * 1073741824 + low, MAX), rest
end

local function fillTo(l, level, at, carry)
  local burst, held = l.max, l.held
  local available = max(min(level, burst, MAX - held), -MAX)
  local spent = l.spent
  if spent > MAX - held - available then spent = max(0, -(available + held)) end
  l.granted, l.available, l.spent, l.at = available + held + spent, available, spent, at
  if available == burst then l.carry = 0 else l.carry = carry end
end

local function refill(l)
  local kind, at, millis, units = l.kind, l.at, l.millis, l.units
  if now == at then return end
  if now < at then
    if kind == "W" then
      if at - now >= millis then l.at = floor(now / millis) * millis end
      return
    end
    if raise(-l.max, at - now, units, 0, millis) < 0 then return end
    if kind == "R" then l.at = now else l.at = at - math.ceil((at - now) / millis) * millis end
  elseif kind == "R" then
    if l.available >= l.max then
      l.at, l.carry = now, 0
      return
    end
    local product = (now - at) * units + l.carry
    if product <= MAX then
      local gained = floor(product / millis)
      fillTo(l, l.available + gained, now, product - gained * millis)
    else
      local level, rest = raise(l.available, now - at, units, l.carry, millis)
      fillTo(l, level, now, rest)
    end
  elseif kind == "I" then
    local periods = floor((now - at) / millis)
    if periods == 0 then return end
    local level = l.available + periods * units
    if periods * units > MAX then level = raise(l.available, periods, units, 0, 1) end
    fillTo(l, level, at + periods * millis, 0)
  elseif now - at >= millis then
    local windows = floor((now - at) / millis)
    l.granted, l.available, l.held, l.spent, l.epoch = l.max, l.max, 0, 0, l.epoch + windows
    l.at = at + windows * millis
  end
end

-- From its line, brought up to now.
local function read(line)
  local granted, available, held, spent, epoch, at, carry, limit, kind, burst, units, millis =
    match(line, "^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) ((%S+) (%S+) (%S+) (%S+).*)$")
  local l = {
    granted = tonumber(granted), available = tonumber(available), held = tonumber(held), spent = tonumber(spent),
    epoch = tonumber(epoch), at = tonumber(at), carry = tonumber(carry), limit = limit, kind = kind
  }
  -- Time gives nothing to the others, so nothing has to be known of them.
  if millis ~= "0" then
    l.max, l.units, l.millis = tonumber(burst), tonumber(units), tonumber(millis)
    refill(l)
  end
  return l
end

local function line(l)
  return format("%.0f %.0f %.0f %.0f %.0f %.0f %.0f ", l.granted, l.available, l.held, l.spent, l.epoch, l.at, l.carry) ..
    l.limit
end

local function most(l)
  if l.kind == "U" then return MAX - l.held end
  return max(0, l.available)
end

local function admits(l, amount)
  return amount <= l.available or amount == 0 or (l.kind == "U" and amount <= most(l))
end

local function hold(l, amount)
  if amount == 0 then return end
  if amount > l.available then l.spent = 0 end
  l.held = l.held + amount
  l.available = l.granted - l.held - l.spent
end

local function settle(l, amount, epoch, actual)
  if epoch ~= l.epoch or (amount == 0 and actual == 0) then return end
  local kind, held, granted, spent = l.kind, l.held - amount, l.granted, l.spent
  l.held = held
  if kind == "N" then
    l.available = l.available + amount
    if l.carry > 0 and amount > 0 then
      local part = math.min(amount, l.carry)
      local owed = math.min(part == amount and actual or math.min(actual, part), MAX - granted)
      l.carry, l.spent, l.granted = l.carry - part, spent + owed, granted + owed
    end
    return
  end
  local rate = kind == "R" or kind == "I"
  if actual > MAX - spent - held then
    if kind == "U" then
      spent = 0
    elseif rate then
      local forgotten = max(0, min(spent, granted))
      granted, spent = granted - forgotten, spent - forgotten
    end
  end
  local charged = min(actual, MAX - spent - held + min(0, granted))
  spent = spent + charged
  l.granted, l.available, l.spent = granted, granted - held - spent, spent
  if rate and charged < amount then fillTo(l, l.available, l.at, l.carry) end
end

local function plus(text, n)
  if n == 0 then return text end
  return int(min(tonumber(text) + n, MAX))
end

-- Counts in the first line of a budget what was settled. The line is taken apart once.
local function tally(counts, cause, count, refunded, charged, over)
  if type(counts) == "string" then counts = { match(counts, "${COUNTS}") } end
  local at = 2 * cause + 2
  counts[2], counts[3] = plus(counts[2], charged), plus(counts[3], over)
  counts[at], counts[at + 1] = plus(counts[at], count), plus(counts[at + 1], refunded)
  return counts
end
`

/**
 * The common cases, done before all that the others need is defined, which takes longer than they do: a single step, of one budget
 * with one limit, with nothing due; a new hold, and the settlement of a hold all of one epoch.
 */
const single = String.raw`
local name, id = ARGV[3], ARGV[5]
if name == "hold" and #ARGV == 11 and ARGV[6] == "0" and not isDue and call("EXISTS", KEYS[4]) == 0 then
  local budget = ARGV[9]
  local text = call("HGET", BOOKS, budget)
  local head, only = match(text or "", "^(0 [^\n]*\n[^\n]*\n)([^\n]*)$")
  if only then
    local l, amount, upTo = read(only), tonumber(ARGV[10]), tonumber(ARGV[11])
    if admits(l, amount) then
      if upTo then amount = max(amount, min(upTo, most(l))) end
      local taken = int(amount)
      local record = "o 0 " .. ARGV[8] .. " " .. taken .. " - " .. budget .. ";" .. taken .. "," .. int(l.epoch)
      if call("HSETNX", HOLDS, id, record) == 1 then
        hold(l, amount)
        call("HSET", BOOKS, budget, head .. line(l))
        call("ZADD", DUE, int(now + tonumber(ARGV[7])), id)
        return { "H " .. taken }
      end
    elseif call("HEXISTS", HOLDS, id) == 0 then
      return { { "D", int(now), text, "0" } }
    end
  end
elseif name == "settle" and #ARGV == 9 and not isDue then
  local text = call("HGET", HOLDS, id)
  local budget, held, epoch = match(text or "", "^o %S+ %S+ %S+ %S+ ([^; ]*);(%d+),(-?%d+)$")
  text = budget and call("HGET", BOOKS, budget)
  local counts, declared, only = match(text or "", "^(0 [^\n]*)(\n[^\n]*\n)([^\n]*)$")
  if only then
    local l, cause, charge, overran = read(only), tonumber(ARGV[6]), ARGV[7], "-"
    if charge == "" then charge = held end
    local amount, actual = tonumber(held), tonumber(charge)
    settle(l, amount, tonumber(epoch), actual)
    counts = tally(counts, cause, 1, max(0, amount - actual), actual, max(0, actual - amount))
    call("HSET", BOOKS, budget, concat(counts, " ") .. declared .. line(l))
    if actual > amount and l.available < 0 then overran = budget end
    text = cause .. " 0 " .. charge .. " " .. overran
    call("SET", KEYS[4], text .. " " .. int(now + keep), "PX", ARGV[2])
    call("HDEL", HOLDS, id)
    call("ZREM", DUE, id)
    if amount > 0 then call("PUBLISH", sub(BOOKS, 1, -6) .. "freed", budget) end
    return { "S " .. text }
  end
end
`

/** The records, and what ends a hold. */
const books = String.raw`
local function ints(list)
  if #list == 1 then return int(list[1]) end
  local text = int(list[1])
  for i = 2, #list do text = text .. "," .. int(list[i]) end
  return text
end

local function numbers(text)
  local one = tonumber(text)
  if one then return { one } end
  local list = {}
  for n in gmatch(text, "[^,]+") do list[#list + 1] = tonumber(n) end
  return list
end

-- What is read is kept here while the script runs, and written at its end.
local budgets, changed, freed = {}, {}, {}
local holds, touched, dues = {}, {}, {}

-- The books of a budget, brought up to now; false when it is not there.
local function budget(name)
  local b = budgets[name]
  if b ~= nil then return b end
  local text = call("HGET", BOOKS, name)
  if not text then
    budgets[name] = false
    return false
  end
  local counts, declared, lines = match(text, "^([^\n]*)\n([^\n]*)\n(.*)$")
  b = { text = text, counts = counts, declared = declared }
  for text in gmatch(lines, "[^\n]+") do b[#b + 1] = read(text) end
  if sub(counts, 1, 2) ~= "0 " then b.gated = tonumber(match(counts, "^%d+")) > now end
  budgets[name] = b
  return b
end

-- As it is or will be written.
local function textOf(b)
  if not b.text then
    local counts = b.counts
    if type(counts) == "table" then counts = concat(counts, " ") end
    local text = counts .. "\n" .. b.declared
    for j = 1, #b do text = text .. "\n" .. line(b[j]) end
    b.text = text
  end
  return b.text
end

local function change(name, b)
  b.text = nil
  if b.changed then return end
  b.changed = true
  changed[#changed + 1] = name
end

local function free(name)
  for i = 1, #freed do if freed[i] == name then return end end
  freed[#freed + 1] = name
end

local function load(ids)
  for from = 1, #ids, ${SWEPT} do
    local texts = call("HMGET", HOLDS, unpack(ids, from, min(from + ${SWEPT} - 1, #ids)))
    for i = 1, #texts do holds[ids[from + i - 1]] = texts[i] end
  end
end

-- false forgets it.
local function put(id, text, due)
  holds[id] = text
  dues[id] = due
  touched[#touched + 1] = id
end

-- As many arguments at once as the stack of Lua has room for.
local function all(command, key, list)
  for from = 1, #list, ${SWEPT} do call(command, key, unpack(list, from, min(from + ${SWEPT} - 1, #list))) end
end

local function save()
  local pairs = {}
  for i, name in ipairs(changed) do
    pairs[2 * i - 1], pairs[2 * i] = name, textOf(budgets[name])
  end
  all("HSET", BOOKS, pairs)
  local texts, times, gone = {}, {}, {}
  for _, id in ipairs(touched) do
    local text, due = holds[id], dues[id]
    if text then
      texts[#texts + 1], texts[#texts + 2] = id, text
      if due then times[#times + 1], times[#times + 2] = int(due), id end
    else
      gone[#gone + 1] = id
    end
  end
  all("HSET", HOLDS, texts)
  all("ZADD", DUE, times)
  all("HDEL", HOLDS, gone)
  all("ZREM", DUE, gone)
  if freed[1] then call("PUBLISH", sub(BOOKS, 1, -6) .. "freed", concat(freed, ",")) end
end

-- What a hold has of each budget: a list of parts, each a list of its amount and its epochs.
local function entriesOf(text)
  local name, amount, epoch = match(text, "^([^; ]*);(%d+),(-?%d+)$")
  if name then
    amount = tonumber(amount)
    return { { name = name, held = amount, { amount, tonumber(epoch) } } }
  end
  local entries = {}
  for word in gmatch(text, "%S+") do
    local name, parts = match(word, "^([^;]*);(.*)$")
    local entry = { name = name, held = 0 }
    for part in gmatch(parts, "[^;]+") do
      part = numbers(part)
      entry.held = entry.held + part[1]
      entry[#entry + 1] = part
    end
    entries[#entries + 1] = entry
  end
  return entries
end

local function entriesText(entries)
  local only = entries[1]
  if #entries == 1 and #only == 1 then return only.name .. ";" .. ints(only[1]) end
  local words = {}
  for i, entry in ipairs(entries) do
    local word = entry.name
    for n = 1, #entry do word = word .. ";" .. ints(entry[n]) end
    words[i] = word
  end
  return concat(words, " ")
end

-- nil when it has ended.
local function open(text)
  local step, onExpiry, amounts, progress, entries = match(text, "^o (%S+) (%S+) (%S+) (%S+) (.*)$")
  if not step then return nil end
  return {
    step = tonumber(step), onExpiry = onExpiry, amounts = amounts, progress = progress,
    text = entries, entries = entriesOf(entries)
  }
end

local outcomes, forgottenAt = {}, " " .. int(now + keep)

local function remember(id, key, text)
  call("SET", key, text .. forgottenAt, "PX", ARGV[2])
  outcomes[id] = text
  put(id, false)
end

-- How a hold ended: what is remembered of it, or false.
local function outcomeOf(id, key)
  local text = outcomes[id]
  if text == nil then
    text = call("GET", key)
    text = text and tonumber(match(text, "%d+$")) > now and text
    outcomes[id] = text
  end
  return text
end

local function settleAll(name, b, amount, part, actual)
  change(name, b)
  for j = 1, #b do settle(b[j], amount, part[j + 1] or b[j].epoch, actual) end
end

local function inDebt(b)
  for j = 1, #b do if b[j].available < 0 then return true end end
  return false
end

local function outcome(cause, late, charges, overran)
  local names = "-"
  if overran[1] then names = concat(overran, ",") end
  return cause .. " " .. late .. " " .. ints(charges) .. " " .. names
end

-- The key is for the outcome; without one, the hold has expired.
local function finish(id, key, entries, cause, charges)
  local overran = {}
  for i, entry in ipairs(entries) do
    local name, held, charge = entry.name, entry.held, charges[i]
    local b, rest, last = budget(name), charge, #entry
    for n = 1, last do
      local part = entry[n]
      local actual = rest
      if n < last then actual = min(rest, part[1]) end
      rest = rest - actual
      settleAll(name, b, part[1], part, actual)
    end
    b.counts = tally(b.counts, cause, 1, max(0, held - charge), charge, max(0, charge - held))
    if charge > held and inDebt(b) then overran[#overran + 1] = name end
    if held > 0 then free(name) end
  end
  local text = outcome(cause, 0, charges, overran)
  -- A late settlement of an expired hold needs to know what it held.
  if not key then put(id, text .. " " .. entriesText(entries), now + keep)
  else remember(id, key, text) end
  return text
end

local function heldOf(entries)
  local list = {}
  for i, entry in ipairs(entries) do list[i] = entry.held end
  return list
end

-- "U" when a budget is not there, "B" when it is being changed by somebody who could not get ahead otherwise.
local function barred(entries)
  local answer
  for _, entry in ipairs(entries) do
    local b = budget(entry.name)
    if not b then return "U" end
    if b.gated then answer = "B" end
  end
  return answer
end


`

/** What holds: all of the request, or an answer that says why not. */
const taking = String.raw`
local function denied(requests, before)
  local answer = { "D", int(now) }
  for i, request in ipairs(requests) do
    local b, own = budgets[request.name], {}
    for j = 1, #b do
      own[j] = 0
      for _, part in ipairs(before and before.entries[i] or {}) do
        if part[j + 1] == b[j].epoch then own[j] = own[j] + part[1] end
      end
    end
    answer[#answer + 1] = textOf(b)
    answer[#answer + 1] = ints(own)
  end
  return answer
end

-- Parts of the same epochs are one; epochs that are over are all the same.
local function withPart(entry, amount, b)
  local latest = { amount }
  for j = 1, #b do latest[j + 1] = b[j].epoch end
  if not entry[1] then return { name = entry.name, held = amount, latest } end
  local merged = { name = entry.name, held = 0 }
  for n = 1, #entry + 1 do
    local part = entry[n] or latest
    merged.held = merged.held + part[1]
    local last = merged[#merged]
    local same = last ~= nil
    for j = 2, #part do
      if part[j] ~= latest[j] then part[j] = -1 end
      if same and part[j] ~= last[j] then same = false end
    end
    if same then
      part[1] = last[1] + part[1]
      merged[#merged] = part
    else
      merged[#merged + 1] = part
    end
  end
  return merged
end

-- Answers the entries of the hold and the amounts that were taken; or nil, and what to say.
local function take(requests, before)
  local bar = barred(requests)
  if bar then return nil, bar end
  for _, request in ipairs(requests) do
    local b = budgets[request.name]
    for j = 1, #b do
      if not admits(b[j], request.amount) then return nil, denied(requests, before) end
    end
  end
  local entries, amounts = {}, {}
  for i, request in ipairs(requests) do
    local b, amount = budgets[request.name], request.amount
    if request.upTo then
      local room = request.upTo
      for j = 1, #b do room = min(room, most(b[j])) end
      amount = max(amount, room)
    end
    change(request.name, b)
    amounts[i] = amount
    entries[i] = withPart(before and before.entries[i] or request, amount, b)
    for j = 1, #b do hold(b[j], amount) end
  end
  return entries, amounts
end
`

/** What each begins with, and the steps. */
const all = String.raw`
if isDue then
  local ids = call("ZRANGEBYSCORE", DUE, "-inf", int(now), "LIMIT", "0", "${SWEPT}")
  load(ids)
  for _, id in ipairs(ids) do
    local h = holds[id] and open(holds[id])
    local bar = h and barred(h.entries)
    if not h or bar == "U" then
      put(id, false)
    elseif not bar then
      local charges
      if h.onExpiry == "h" then charges = heldOf(h.entries)
      elseif h.progress ~= "-" then charges = numbers(h.progress)
      else
        charges = {}
        for n = 1, #h.entries do charges[n] = 0 end
      end
      finish(id, nil, h.entries, ${cause("expired")}, charges)
    end
  end
end

-- Each step is given its arguments from first to last.
local step = {}

-- id, step, expiresAfter, onExpiry (p or h), and for each entry: name, amount, upTo or nothing. Answers "H amounts".
function step.hold(first, last, key)
  local id, number = ARGV[first], tonumber(ARGV[first + 1])
  local text, before, progress = holds[id], nil, "-"
  if text then
    before = open(text)
    if not before then return "E" end
    if number <= before.step then return "H " .. before.amounts end
    progress = before.progress
  elseif number > 0 or outcomeOf(id, key) then
    return "E"
  end
  local requests = {}
  for i = first + 4, last, 3 do
    requests[#requests + 1] = { name = ARGV[i], amount = tonumber(ARGV[i + 1]), upTo = tonumber(ARGV[i + 2]) }
  end
  local entries, amounts = take(requests, before)
  if not entries then return amounts end
  amounts = ints(amounts)
  put(id, concat({ "o", ARGV[first + 1], ARGV[first + 3], amounts, progress, entriesText(entries) }, " "),
    now + tonumber(ARGV[first + 2]))
  return "H " .. amounts
end

-- id, and for each entry: name, amount. Answers "S outcome".
function step.charge(first, last, key)
  local id = ARGV[first]
  local text, entries, amounts = holds[id] or outcomeOf(id, key)
  if text then
    local before = open(text)
    if not before then return "S " .. text end
    entries, amounts = before.entries, numbers(before.amounts)
    local bar = barred(entries)
    if bar then return bar end
  else
    local requests = {}
    for i = first + 1, last, 2 do requests[#requests + 1] = { name = ARGV[i], amount = tonumber(ARGV[i + 1]) } end
    entries, amounts = take(requests)
    if not entries then return amounts end
  end
  return "S " .. finish(id, key, entries, ${cause("committed")}, amounts)
end

-- id, step, and an amount for each entry. Answers nothing.
function step.reduce(first)
  local id, number = ARGV[first], ARGV[first + 1]
  local h = holds[id] and open(holds[id])
  if not h or tonumber(number) <= h.step then return "" end
  local bar = barred(h.entries)
  if bar then return bar end
  for i, entry in ipairs(h.entries) do
    local name, b, rest, left = entry.name, budget(entry.name), tonumber(ARGV[first + 1 + i]), { name = entry.name }
    if rest > 0 then free(name) end
    for n, part in ipairs(entry) do
      local given = min(rest, part[1])
      rest = rest - given
      settleAll(name, b, given, part, 0)
      -- The latest part stays, for what may be charged to it.
      if part[1] > given or n == #entry then
        part[1] = part[1] - given
        left[#left + 1] = part
      end
    end
    h.entries[i] = left
  end
  put(id, concat({ "o", number, h.onExpiry, h.amounts, h.progress, entriesText(h.entries) }, " "), dues[id])
  return ""
end

-- id, cause, the charges or nothing, and for each entry: name, amount. Answers "S outcome".
function step.settle(first, last, key)
  local id, cause, charges = ARGV[first], tonumber(ARGV[first + 1]), numbers(ARGV[first + 2])
  local text, entries, before = holds[id] or outcomeOf(id, key), {}, {}
  local h = text and open(text)
  if h then
    entries = h.entries
  elseif text then
    local ended, late, charged, rest = match(text, "^(%S+) (%S+) (%S+) %S+ ?(.*)$")
    if ended ~= "${cause("expired")}" or late == "1" then return "S " .. text end
    entries, before = entriesOf(rest), numbers(charged)
  else
    for i = first + 3, last, 2 do
      local amount = tonumber(ARGV[i + 1])
      entries[#entries + 1] = { name = ARGV[i], held = amount, { amount } }
    end
  end
  local bar = barred(entries)
  if bar then return bar end
  if not charges[1] then charges = heldOf(entries) end
  if h then return "S " .. finish(id, key, entries, cause, charges) end
  -- What was not charged when it expired is charged now, to the epochs that it was held in as far as they go on.
  local overran = {}
  for i, entry in ipairs(entries) do
    local name, b, charged = entry.name, budget(entry.name), before[i] or 0
    charges[i] = max(charges[i], charged)
    local more = charges[i] - charged
    settleAll(name, b, 0, entry[#entry], more)
    b.counts = tally(b.counts, cause, text and 0 or 1, 0, more, more)
    if more > 0 and inDebt(b) then overran[#overran + 1] = name end
  end
  text = outcome(cause, 1, charges, overran)
  remember(id, key, text)
  return "S " .. text
end

-- expiresAfter, and for each hold: id, its progress or nothing. Answers the ids of those that are not open.
function step.renew(first, last)
  local ids, ended, due = {}, {}, now + tonumber(ARGV[first])
  for i = first + 1, last, 2 do if holds[ARGV[i]] == nil then ids[#ids + 1] = ARGV[i] end end
  load(ids)
  for i = first + 1, last, 2 do
    local id, progress = ARGV[i], ARGV[i + 1]
    local head, tail = match(holds[id] or "", "^(o %S+ %S+ %S+) %S+ (.*)$")
    if not head then
      ended[#ended + 1] = id
    elseif progress ~= "" then
      put(id, head .. " " .. progress .. " " .. tail, due)
    else
      put(id, holds[id], due)
    end
  end
  return ended
end

-- 1 to keep others from changing them for a moment, and the names. Answers the time, and the text of each or nothing.
function step.read(first, last)
  local answer, gate = { int(now) }, ARGV[first] == "1"
  for i = first + 1, last do
    local b = budget(ARGV[i])
    if gate and b and b.gated then return "B" end
  end
  for i = first + 1, last do
    local b = budget(ARGV[i])
    if gate and b then
      b.counts = tally(b.counts, 1, 0, 0, 0, 0)
      b.counts[1], b.gated = int(now + ${GATE}), true
      change(ARGV[i], b)
    end
    answer[#answer + 1] = b and textOf(b)
  end
  return answer
end

-- The steps that were asked for: the name of each, how many arguments follow, and these.
local at, ids = 3, {}
while ARGV[at] do
  if ARGV[at] ~= "read" and ARGV[at] ~= "renew" and holds[ARGV[at + 2]] == nil then ids[#ids + 1] = ARGV[at + 2] end
  at = at + 2 + tonumber(ARGV[at + 1])
end
load(ids)
local answers, at, key = {}, 3, 4
while ARGV[at] do
  local name, last = ARGV[at], at + 1 + tonumber(ARGV[at + 1])
  answers[#answers + 1] = step[name](at + 2, last, KEYS[key])
  if name == "hold" or name == "settle" or name == "charge" then key = key + 1 end
  at = last + 1
end
save()
return answers
`

const script = <Answer>(lua: string, numberOfKeys: (...parameters: ReadonlyArray<string>) => number) =>
  Redis.script((...parameters: ReadonlyArray<string>) => parameters.slice(1), {
    numberOfKeys,
    lua
  }).withReturnType<Answer>()

/**
 * What a step answers: a word for `E`nded, `U`nopened or `B`arred; a letter and the words that follow it; of a denial, `D`, the
 * time, and for each entry its budget and what the hold has of it; of reading, the time and the text of each; of renewing, ids.
 */
export type Answer = string | ReadonlyArray<string | null>

/**
 * Any number of steps, one after the other. The keys: books, holds, due, and one for the outcome of each `hold`, `settle` and
 * `charge`. The arguments: the time or nothing, how long outcomes are kept, and the steps.
 */
export const steps = script<ReadonlyArray<Answer>>(ledger + single + books + taking + all, (keys) => Number(keys))

/** For each budget: name, what it must be now or nothing, what it shall be. Answers whether it was so. */
export const write = script<"yes" | "no">(
  String.raw`
for i = 1, #ARGV, 3 do
  if (redis.call("HGET", KEYS[1], ARGV[i]) or "") ~= ARGV[i + 1] then return "no" end
end
local names = {}
for i = 1, #ARGV, 3 do
  redis.call("HSET", KEYS[1], ARGV[i], ARGV[i + 2])
  names[#names + 1] = ARGV[i]
end
redis.call("PUBLISH", string.sub(KEYS[1], 1, -6) .. "freed", table.concat(names, ","))
return "yes"
`,
  () => 1
)
