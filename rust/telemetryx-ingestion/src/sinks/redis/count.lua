-- Adds the counts of one part of a log and moves the applied offset, together: all of it is done or nothing.
-- KEYS: offsets applied (or the mark of a dead letter), totals, types, sources, the source `(other)`, then minutes, then sources.
-- Returns what was done ('done', 'had', or 'partly': a first part of it was applied before), the offset applied before,
-- and the totals: events, sources.
-- Each command that writes goes to Redis' log on disk by itself: a source is written with one, and the list of sources with
-- one for many of them.

local call = redis.call
local OTHER = '(other)'
local OTHER_TYPE = 'type:' .. OTHER
local APPLIED, TOTALS, TYPES, SOURCES, OTHER_SOURCE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local FIXED = 5
-- The name of a source begins there in its key.
local NAME_AT = #OTHER_SOURCE - #OTHER + 1
-- Words of one command: Lua cannot hand over many more.
local WORDS_MAX = 2000

local at = 0
local function text() at = at + 1; return ARGV[at] end
local function number() return tonumber(text()) end

-- The values of the fields that `words` holds from one place up to another, false where there is none.
local function read(key, words, from, to)
  if to - from < WORDS_MAX then return call('HMGET', key, unpack(words, from, to)) end
  local values = {}
  for some = from, to, WORDS_MAX do
    local more = call('HMGET', key, unpack(words, some, math.min(some + WORDS_MAX - 1, to)))
    for _, value in ipairs(more) do values[#values + 1] = value end
  end
  return values
end
-- Sets fields of a hash, as the first so many words say: a field, its value, the next field…
local function write(key, words, count)
  for some = 1, count, WORDS_MAX do
    call('HSET', key, unpack(words, some, math.min(some + WORDS_MAX - 1, count)))
  end
end
-- The whole number that a field has, or nothing. An error before the first write is harmless.
local function count_of(value)
  if not value then return nil end
  return tonumber(value) or error('a count is no number: ' .. value)
end

local mode, field, first, behind = text(), text(), number(), text()
local events, types_max, sources_max, counts_max = text(), number(), number(), number()
local channel, summary = text(), text()

-- Everything is read before anything is written: a key of a wrong kind is an error before the first write.
local before = ''
local function answer(done)
  return { done, before, call('HGET', TOTALS, 'events') or '0', call('HLEN', SOURCES) }
end
if mode == 'journal' then
  before = call('HGET', APPLIED, field) or ''
  local applied = tonumber(before)
  if applied and applied >= tonumber(behind) then return answer('had') end
  if applied and applied > first then return answer('partly') end
elseif call('EXISTS', APPLIED) == 1 then
  return answer('had')
end

local messages = number()
local messages_at = at
at = at + messages

-- Types beyond their limit are counted together.
local types, types_known, beyond = {}, call('HLEN', TYPES), {}
for i = 1, number() do
  local name, count = text(), text()
  if call('HEXISTS', TYPES, name) == 0 then
    if types_known < types_max or name == OTHER then
      types_known = types_known + 1
    else
      beyond['type:' .. name] = true
      name = OTHER
    end
  end
  types[i] = { name = name, count = count }
end
beyond[OTHER_TYPE] = true

local minutes = number()
local minutes_at = at
for i = 1, minutes do
  call('HLEN', KEYS[FIXED + i])
  at = at + 1
  local counts = number()
  at = at + 2 * counts
end

local counts_known = tonumber(call('HGET', TOTALS, 'counts') or '0')
local sources_known = call('HLEN', SOURCES)
local other = call('HMGET', OTHER_SOURCE, 'first', 'last')
local sources = number()
local sources_at = at
local names, known = {}, {}
for i = 1, sources do
  local key = KEYS[FIXED + minutes + i]
  names[i] = key:sub(NAME_AT)
  -- Whether it is a number, first and last, how many types; `first`, `last` and the types as fields; their counts.
  local kinds = tonumber(ARGV[at + 4])
  local had = read(key, ARGV, at + 5, at + 6 + kinds)
  for kind = 3, 2 + kinds do had[kind] = count_of(had[kind]) or 0 end
  known[i] = had
  at = at + 6 + 2 * kinds
end
local events_of = read(SOURCES, names, 1, sources)
for i = 1, sources do events_of[i] = count_of(events_of[i]) or 0 end

-- From here on it writes.
for _, kind in ipairs(types) do call('HINCRBY', TYPES, kind.name, kind.count) end

at = minutes_at
for i = 1, minutes do
  local key, expires = KEYS[FIXED + i], text()
  for _ = 1, number() do
    local name = types[number()].name
    call('HINCRBY', key, name, text())
  end
  call('EXPIREAT', key, expires)
end

-- Adds to a count that several may add to: of types or sources that are counted together.
local function add_together(key, field, count)
  -- What is there after the first adding is what was added: a new count, for which there may be no room.
  if call('HINCRBY', key, field, count) == count then
    if counts_known >= counts_max and field ~= OTHER_TYPE then
      call('HDEL', key, field)
      call('HINCRBY', key, OTHER_TYPE, count)
    else
      counts_known = counts_known + 1
    end
  end
end

at = sources_at
local list, listed, words = {}, 0, {}
for i = 1, sources do
  local key, name, had, written = KEYS[FIXED + minutes + i], names[i], known[i], 0
  local is_number, from, to, kinds = text(), text(), text(), number()
  if to == '' then to = from end
  if not had[1] and name ~= OTHER then
    -- A new one; beyond the limits they are counted together.
    if sources_known >= sources_max or counts_known >= counts_max then
      name = OTHER
    else
      sources_known = sources_known + 1
      if is_number == '1' then words[1], words[2], written = 'number', '1', 2 end
    end
  end
  local together = name == OTHER
  if together then
    if not other[1] then sources_known = sources_known + 1 end
    key, had = OTHER_SOURCE, other
  end
  local all = 0
  for kind = 1, kinds do
    local field, count = ARGV[at + 2 + kind], tonumber(ARGV[at + 2 + kinds + kind])
    all = all + count
    if together or beyond[field] then
      add_together(key, beyond[field] and OTHER_TYPE or field, count)
    elseif had[kind + 2] == 0 and counts_known >= counts_max then
      call('HINCRBY', key, OTHER_TYPE, count)
    else
      if had[kind + 2] == 0 then counts_known = counts_known + 1 end
      words[written + 1], words[written + 2] = field, had[kind + 2] + count
      written = written + 2
    end
  end
  at = at + 2 + 2 * kinds
  -- Times have one width, so that their order is that of their texts.
  if not had[1] or from < had[1] then
    had[1], words[written + 1], words[written + 2] = from, 'first', from
    written = written + 2
  end
  if not had[2] or to > had[2] then
    had[2], words[written + 1], words[written + 2] = to, 'last', to
    written = written + 2
  end
  write(key, words, written)
  if together then
    call('HINCRBY', SOURCES, OTHER, all)
  else
    list[listed + 1], list[listed + 2] = name, events_of[i] + all
    listed = listed + 2
  end
end
write(SOURCES, list, listed)

call('HINCRBY', TOTALS, 'events', events)
call('HSET', TOTALS, 'counts', counts_known)
if mode == 'journal' then
  call('HSET', APPLIED, field, behind)
else
  call('SET', APPLIED, '1', 'EX', field)
end

local done = answer('done')
if channel ~= '' then
  for i = 1, messages do call('PUBLISH', channel, ARGV[messages_at + i]) end
  local totals = string.format('{"events":%s,"sources":%d}', done[3], done[4])
  call('PUBLISH', channel, summary .. ',"totals":' .. totals .. '}}')
end
return done
