-- Adds the counts of one part of a log and moves the applied offset, together: all of it is done or nothing.
-- KEYS: offsets applied (or the mark of a dead letter), totals, types, sources, the source `(other)`, then minutes, then sources.
-- Returns what was done ('done', 'had', or 'partly': a first part of it was applied before), the offset applied before,
-- and the totals: events, sources.

local call = redis.call
local OTHER = '(other)'
local APPLIED, TOTALS, TYPES, SOURCES, OTHER_SOURCE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local FIXED = 5
-- The name of a source begins there in its key.
local NAME_AT = #OTHER_SOURCE - #OTHER + 1

local at = 0
local function text() at = at + 1; return ARGV[at] end
local function number() return tonumber(text()) end

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

local types, types_known = {}, call('HLEN', TYPES)
for i = 1, number() do
  local name, count = text(), text()
  types[i] = { name = name, count = count, known = call('HEXISTS', TYPES, name) == 1 }
end

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
local spans = {}
for i = 1, sources do
  spans[i] = call('HMGET', KEYS[FIXED + minutes + i], 'first', 'last')
end

-- From here on it writes. Types beyond their limit are counted together.
for _, kind in ipairs(types) do
  if not kind.known then
    if types_known < types_max or kind.name == OTHER then
      types_known = types_known + 1
    else
      kind.name = OTHER
    end
  end
  call('HINCRBY', TYPES, kind.name, kind.count)
end

at = minutes_at
for i = 1, minutes do
  local key, expires = KEYS[FIXED + i], text()
  for _ = 1, number() do
    local name = types[number()].name
    call('HINCRBY', key, name, text())
  end
  call('EXPIREAT', key, expires)
end

at = sources_at
for i = 1, sources do
  local key = KEYS[FIXED + minutes + i]
  local name = key:sub(NAME_AT)
  local is_number, from, to = text(), text(), text()
  local span = name == OTHER and other or spans[i]
  if not span[1] then
    -- A new one; beyond the limits they are counted together.
    if name ~= OTHER and (sources_known >= sources_max or counts_known >= counts_max) then
      key, name, span = OTHER_SOURCE, OTHER, other
    elseif is_number == '1' then
      call('HSET', key, 'number', '1')
    end
    if not span[1] then sources_known = sources_known + 1 end
  end
  local all = 0
  for _ = 1, number() do
    local kind, count = types[number()].name, number()
    all = all + count
    -- What is there after the first adding is what was added: a new count, for which there may be no room.
    if call('HINCRBY', key, 'type:' .. kind, count) == count then
      if counts_known >= counts_max and kind ~= OTHER then
        call('HDEL', key, 'type:' .. kind)
        call('HINCRBY', key, 'type:' .. OTHER, count)
      else
        counts_known = counts_known + 1
      end
    end
  end
  call('HINCRBY', SOURCES, name, all)
  -- Times have one width, so that their order is that of their texts.
  if not span[1] or from < span[1] then span[1] = from; call('HSET', key, 'first', from) end
  if not span[2] or to > span[2] then span[2] = to; call('HSET', key, 'last', to) end
end

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
